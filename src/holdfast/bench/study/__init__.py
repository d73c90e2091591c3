"""What is measured of one method alone, importances and memory: may import `training` and what is below it."""
