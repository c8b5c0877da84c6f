"""Runs the code of the README and of the site: the blocks of a page are one program, in the order of the page.

The start page is a notebook as well, and is run as one, with what it prints: tests/test_notebook.py.
"""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"], excludes=["docs/start.md"]
).pytest()
