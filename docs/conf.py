"""How Sphinx makes a site of the pages; from the checkout: ``sphinx-build -c docs . build/site``.

The source is the whole checkout, so that links lead where they lead when the files are read as they are.
README is the first page; what its menu shows is said here, since a menu written in README would be in the
way of whoever reads the file.
"""
from __future__ import annotations

import re
import shutil
from pathlib import Path

from pygments.lexers.special import TextLexer

CHECKOUT = Path(__file__).parent.parent

project = 'zeo_clone'
author = 'The zeo_clone authors'
copyright = f'2026, {author}'
version = release = re.search(r"^__version__ = '(.+)'$", (CHECKOUT / 'zeo_clone' / 'version.py').read_text(),
                              re.MULTILINE)[1]

extensions = ['myst_parser']
root_doc = 'README'
include_patterns = ['README.md', 'CHANGES.md', 'CONTRIBUTING.md', 'SECURITY.md', 'docs/*.md',
                    'examples/README.md']
myst_heading_anchors = 4
html_theme = 'alabaster'
html_theme_options = {'description': 'Many processes share one ZODB', 'page_width': '1100px'}
html_show_sourcelink = False

#: Parts of the menu and their pages, in order.  A page that is in none stops the build, by a warning.
MENU = {
    'First steps': ['docs/getting-started', 'docs/tutorial', 'examples/README', 'docs/learning'],
    'Applications': ['docs/client', 'docs/cache', 'docs/blobs', 'docs/conflicts', 'docs/embedded'],
    'Recipes': ['docs/zope', 'docs/plone', 'docs/pyramid', 'docs/processes', 'docs/moving'],
    'Servers': ['docs/server', 'docs/operations', 'docs/tls', 'docs/relay', 'docs/scale-out',
                'docs/troubleshooting',
                'docs/performance',
                'docs/measuring'],
    'Exactly': ['docs/guarantees', 'docs/simulation', 'docs/protocol', 'docs/reference', 'docs/support',
                'SECURITY', 'CHANGES'],
    'Contributors': ['CONTRIBUTING', 'docs/internals', 'docs/requirements'],
}
#: What blocks of code are called here that pygments does not know.
PLAIN = ('conf', 'cron', 'logrotate', 'unit', 'wire')


def add_menu(app, name, source):
    """Append the menu to the first page."""
    if name == root_doc:
        for caption, pages in MENU.items():
            lines = ['', '```{toctree}', ':hidden:', f':caption: {caption}', '', *pages, '```', '']
            source[0] += '\n'.join(lines)


def add_index(app, error):
    """Let who asks for the directory find the first page."""
    if error is None and app.builder.format == 'html':
        shutil.copy(app.outdir / f'{root_doc}.html', app.outdir / 'index.html')


def setup(app):
    for language in PLAIN:
        app.add_lexer(language, TextLexer)
    app.connect('source-read', add_menu)
    app.connect('build-finished', add_index)
