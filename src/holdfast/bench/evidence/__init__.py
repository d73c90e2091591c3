"""The results page, made of records and held against what recipes would run: may import `recipes` and what is below."""
