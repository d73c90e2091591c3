"""What makes the documentation site, beyond the Markdown in ``docs/``: `make docs` builds it by MkDocs.

``hooks.py`` is what MkDocs calls: it adds the pages that stand elsewhere (the changelog, records, the gallery, the
reference) and turns equations into MathML, so that a page needs neither a script nor a network to be read.
``python -m handbook`` writes what is made of records and kept in ``docs/``: the decision page and the guide's pictures.
"""
