"Sphinx settings of the offline site, and mathematics as MathML at build time: no script, no font and no host but our own."
import re
from pathlib import Path
from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from docutils.utils.math import MathError
from sphinx.errors import ExtensionError
from deq_irnn import __version__

project, copyright, version = 'deq_irnn', '2026, the deq_irnn authors', __version__
extensions = ['myst_nb', 'sphinx.ext.viewcode']
myst_enable_extensions = ['dollarmath', 'attrs_block', 'colon_fence']
myst_heading_anchors = 4
nb_execution_mode, nb_merge_streams = 'off', True
nb_render_markdown_format = 'myst'              # with formulas, as the text has them
add_module_names = False
viewcode_follow_imported_members = False        # an alias of dict[…] would lead to the page of builtins, which is none
pygments_style, pygments_dark_style = 'a11y-high-contrast-light', 'a11y-high-contrast-dark'    # every token at 4.5:1 or more
html_theme, html_title, html_favicon = 'furo', 'deq_irnn', 'static/favicon.svg'
html_static_path, html_css_files = ['static'], ['site.css']
html_theme_options = {f'{mode}_css_variables': {'color-brand-primary': c, 'color-brand-content': c} for mode, c in (('light', '#2757a8'), ('dark', '#8ab4f8'))}
html_math_renderer = 'mathml'
html_copy_source = html_show_sphinx = False
html_search_scorer = str(Path(__file__).parent/'static/scorer.js')     # Sphinx looks in the current folder

REWRITE = {r'\\dots\b': r'\\ldots', r'\\iff\b': r'\\Longleftrightarrow', r'\\implies\b': r'\\Longrightarrow',     # names that docutils lacks
           r'(frac|[_^])\s*(\d)(?=\d)': r'\1{\2}',                                                                # TeX takes one digit, docutils all
           r'(\\(?:und|ov)erbrace\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})(?=[_^])': r'\1\\limits',                 # the label goes below the brace
           r'\\([bB]igg?)(?=[(\[|]|\\\{|\\langle|\\l[vV]ert)': r'\\\1l', r'\\([bB]igg?)(?=[)\]/]|\\\}|\\rangle|\\r[vV]ert)': r'\\\1r'}

def mathml(tex, block):
    "MathML of `tex`, by docutils; what it does not know stops the build."
    for ours, theirs in REWRITE.items(): tex = re.sub(ours, theirs, tex)
    try: xml = tex2mathml(tex, as_block=block)
    except (MathError, AttributeError) as error: raise ExtensionError(f'{error}: {tex}') from error
    xml = re.sub(r'<mo>&ApplyFunction;</mo>(?=\s*<m[^o])', '<mspace width="0.167em"/>', xml)                   # sin x, not sinx
    return xml if '\\left' in tex else re.sub('<mo( class="mathopen")?>‖', r'<mo stretchy="false"\1>‖', xml)   # norms keep to the line

def inline(self, node):
    self.body.append(mathml(node.astext(), False))
    raise SkipNode

def block(self, node):
    "A displayed equation, in a box that scrolls on its own, and its number. Inline to the browser: Chrome cuts an \\underbrace in a block short."
    tex, number = re.fullmatch(r'(.*?)(?:\\tag\{([^}]*)\}\s*)?', node.astext().strip(), re.S).groups()
    xml = mathml(tex.strip(), True).replace('display="block"', 'displaystyle="true"')
    self.body.append(self.starttag(node, 'div', CLASS='equation') + f'<div class="scroll">{xml}</div>' + (f'<span class="number">({number})</span>' if number else '') + '</div>')
    raise SkipNode

def reachable(app, page, template, context, doctree):
    "Code and formulas that scroll can be scrolled by keyboard."
    if body := context.get('body'):
        context['body'] = body.replace('<pre>', '<pre tabindex="0">').replace('<div class="scroll">', '<div class="scroll" tabindex="0">')

def setup(app):
    app.add_html_math_renderer('mathml', (inline, None), (block, None))
    app.connect('html-page-context', reachable)
