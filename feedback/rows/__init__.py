"""Rows of files: how they are read, what their cells can mean, and the judged examples that they become."""
