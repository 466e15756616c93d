"""Reports: one self-contained page and one Markdown file, written from run records alone."""
