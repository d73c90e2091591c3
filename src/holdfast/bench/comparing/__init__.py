"""Methods x seeds under one protocol, from plan to report: may import `jobs`, `report` and what is below them."""
