"""Downloads in miniature: for each builder of tools/prepare, files as the site ships them.

A module has `make(folder)`, which writes the files, and `EXPECTED`: {dataset name: {split: rows}},
rows being all that the builder must make of them, each with the columns that tell most. Columns
left out (images) are only read.
"""
