"The documentation site: built by Sphinx without a network, looked over as files, and read in a real browser. SITE_SHOTS=FOLDER keeps screenshots."
import functools, importlib, inspect, json, os, re, shutil, subprocess, sys, threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag
import pytest, yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'docs'))
import build

CONTENTS = yaml.safe_load((ROOT/'nbs/sidebar.yml').read_text())['website']['sidebar']['contents']
PAGES = [Path(f).stem for f in build.files(CONTENTS)]

def make(out, nbs=None):
    "Build in a process of its own, from the folder in which `make docs` does."
    code = f'import sys; sys.path.insert(0, "docs"); import build; sys.exit(build.build({str(out)!r}, {f"{out}.work"!r}, {str(nbs or ROOT/"nbs")!r}))'
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('site')/'html'
    run = make(out)
    assert run.returncode == 0, run.stdout + run.stderr
    return out

@pytest.fixture(scope='session')
def html(site): return {p.relative_to(site).as_posix(): BeautifulSoup(p.read_text(), 'html.parser') for p in site.rglob('*.html')}

# ---- as files

def test_pages_and_order_are_the_sidebars(html):
    assert {f'{p}.html' for p in PAGES} <= set(html)
    tree = html['index.html'].select('.sidebar-tree a.reference')
    assert [a['href'].removesuffix('.html') for a in tree] == ['api'] + [p for p in PAGES if p != 'index']
    assert [c.get_text() for c in html['index.html'].select('.sidebar-tree .caption')] == [c['section'] for c in CONTENTS if not isinstance(c, str)]

def test_nothing_comes_from_another_host(site, html):
    far = re.compile(r'^(https?:)?//')
    for name, page in html.items():
        for tag in page.select('script[src], link[href], img[src], iframe[src], source[src]'): assert not far.match(tag.get('src') or tag.get('href')), (name, tag)
    for css in site.rglob('*.css'): assert not re.search(r'(url\(|@import)\s*["\']?(https?:)?//', css.read_text()), css

def test_links_and_anchors_lead_somewhere(site, html):
    ids = {name: {t['id'] for t in page.select('[id]')} for name, page in html.items()}
    for name, page in html.items():
        for a in page.select('a[href]'):
            path, anchor = urldefrag(a['href'])
            if re.match(r'[a-z]+:', path): continue
            target = (site/name).parent.joinpath(unquote(path)).resolve() if path else site/name
            assert target.is_file(), f'{name}: {a["href"]}'
            if anchor: assert unquote(anchor) in ids[target.relative_to(site.resolve()).as_posix() if path else name], f'{name}: {a["href"]}'

@pytest.mark.parametrize('page', PAGES)
def test_markdown_is_rendered(html, page):
    text = [t for t in html[f'{page}.html'].body.find_all(string=True) if not t.find_parent(['pre', 'code', 'script', 'math'])]
    assert not [t for t in text if re.search(r'\$[^$\n]+\$|\$\$|\\\(|@eq-|\{#|:::|\{ref\}|\{py:', t)]
    assert not re.search(r'^#\|', '\n'.join(p.get_text() for p in html[f'{page}.html'].select('pre')), re.M), 'an nbdev directive shows'

def test_equations_are_numbered_and_found(html):
    for (page, label), number in build.Site(ROOT/'nbs').equations.items():
        box = html[f'{page}.html'].find(id=f'{label}-{build.key(page)}')
        assert box.select_one('.equation math') and f'({number})' in box.get_text(), (page, label)

@pytest.mark.parametrize('page', [p for p in PAGES if (ROOT/f'nbs/{p}.ipynb').exists() and '#| default_exp' in (ROOT/f'nbs/{p}.ipynb').read_text()])
def test_public_names_have_entries_and_sources(html, page):
    name = re.search(r'default_exp (\w+)', (ROOT/f'nbs/{page}.ipynb').read_text())[1]
    module, soup = importlib.import_module(f'deq_irnn.{name}'), html[f'{page}.html']
    for n in module.__all__:
        entry = soup.find('dt', id=f'deq_irnn.{name}.{n}')
        assert entry, f'no entry for {n}'
        if callable(getattr(module, n)) and getattr(getattr(module, n), '__module__', '') == module.__name__: assert entry.select('a .viewcode-link'), f'no source for {n}'

def test_the_api_page_has_every_public_name(html):
    "With a link to its entry, and what it is in a line."
    import deq_irnn
    found = {a.get_text(): a['href'] for a in html['api.html'].select('table.names a')}
    assert set(deq_irnn.__all__) <= set(found)
    for site in build.Site(ROOT/'nbs').modules.values(): assert {n for n in site.__all__ if n[0] != '_'} <= set(found), site
    said = {row.a.get_text(): row.find_all('td')[-1].get_text() for row in html['api.html'].select('table.names tr')}
    assert not [n for n in deq_irnn.__all__ if inspect.isroutine(getattr(deq_irnn, n)) and not said[n]]

@pytest.mark.parametrize('page', PAGES)
def test_every_page_can_be_downloaded(site, html, page):
    link = html[f'{page}.html'].select_one('.page-links a[download]')
    assert (site/link['href']).read_bytes() == (ROOT/f'nbs/{page}.ipynb').read_bytes()

def test_edit_and_run_where_the_repository_is_known():
    assert 'Edit' not in build.page_links('01_solvers', '', 'main')
    links = build.page_links('01_solvers', 'https://github.com/some/repo', 'main')
    assert 'https://github.com/some/repo/edit/main/nbs/01_solvers.ipynb' in links
    assert 'https://colab.research.google.com/github/some/repo/blob/main/nbs/01_solvers.ipynb' in links

def test_pictures_say_what_they_show(html):
    "Each its own words, taken from the sentence that follows it or from `#| fig-alt:`."
    for name, page in html.items():
        alts = [i.get('alt', '') for i in page.select('article .cell img')]
        assert all(len(a) > 15 and a != 'Plot drawn by this cell' for a in alts), (name, alts)
    every = [i['alt'] for p in html.values() for i in p.select('article .cell img')]
    assert len(set(every)) > .95*len(every)

def luminance(color):
    values = [int(color.lstrip('#')[i:i+2], 16)/255 for i in (0, 2, 4)]
    return sum(w*(v/12.92 if v <= .04045 else ((v + .055)/1.055)**2.4) for w, v in zip((.2126, .7152, .0722), values))

@pytest.mark.parametrize('mode', ['pygments_style', 'pygments_dark_style'])
def test_code_has_contrast(mode):
    "Every token at 4.5:1 (WCAG AA) or more on the background of its style."
    from pygments.styles import get_style_by_name
    sys.modules.pop('conf', None)
    import conf
    style = get_style_by_name(getattr(conf, mode))
    for token, look in style:
        if not look['color']: continue
        low, high = sorted(luminance(c) for c in (look['color'], (look['bgcolor'] or style.background_color).lstrip('#')))
        assert (high + .05)/(low + .05) >= 4.5, (token, look['color'])

def test_code_can_be_scrolled_by_keyboard(html):
    assert not [name for name, p in html.items() if name != 'genindex.html' and [b for b in p.select('article .highlight pre') if b.get('tabindex') != '0'] and not name.startswith('_modules')]

def test_solutions_are_folded(html):
    folded = [d for p in html.values() for d in p.select('article details')]
    assert folded and not [d for d in folded if d.has_attr('open') or not d.summary]

def test_search_index_knows_anderson(site):
    index = json.loads((site/'searchindex.js').read_text().removeprefix('Search.setIndex(').removesuffix(')'))
    found = [index[where].get('anderson', []) for where in ('terms', 'titleterms')]
    assert '01_solvers' in [index['docnames'][i] for f in found for i in (f if isinstance(f, list) else [f])]

# ---- the adapter, on two small pages

@pytest.fixture
def small(tmp_path):
    def write(**pages):
        from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
        import nbformat
        for name, cells in pages.items():
            nb = new_notebook(cells=[new_markdown_cell(c[3:]) if c.startswith('md ') else new_code_cell(c) for c in cells])
            nbformat.write(nb, tmp_path/f'{name}.ipynb')
        (tmp_path/'sidebar.yml').write_text(yaml.safe_dump({'website': {'sidebar': {'contents': ['index.ipynb', {'section': 'S', 'contents': [f'{n}.ipynb' for n in pages if n != 'index']}]}}}))
        return tmp_path
    return write

def test_adapter(small):
    nbs = small(index=['md # Home\n\n> What it is'], **{
        '01_a': ['md # A\n\n> About $a$', 'md $$ a = b $$ {#eq-x}\n\n@eq-x and by @eq-x, not `@eq-x`; chapter 02, chapter 09.', '#| hide\nsecret', '#| export\ndef shown(): pass', '#| echo: false\n1'],
        '02_b': ['md # B\n\n$$ c $$ {#eq-y}\n$$ d $$ {#eq-z}', 'md ::: {.callout-note}\n## Mind\nthe gap @eq-x, @eq-z\n:::']})
    site = build.Site(nbs)
    a, b = (json.loads(site.page(p)) for p in ('01_a', '02_b'))
    assert 'notebooks/01_a.ipynb' in ''.join(a['cells'].pop(1)['source']) and 'notebooks/02_b.ipynb' in ''.join(b['cells'].pop(1)['source'])
    texts = [''.join(c['source']) for c in a['cells']]
    assert texts[0] == '# 01 · A\n{.lead}\nAbout $a$'
    assert texts[1] == ('(eq-x-01)=\n$$ a = b \\tag{1.1} $$\n\n{ref}`Equation (1.1) <eq-x-01>` and by {ref}`equation (1.1) <eq-x-01>`, not `@eq-x`; '
                        '{doc}`chapter 02 <02_b>`, chapter 09.')
    assert texts[2] == 'def shown(): pass' and a['cells'][2]['metadata']['tags'] == ['exported']
    assert a['cells'][3]['metadata']['tags'] == ['remove-input'] and len(texts) == 4
    assert ''.join(b['cells'][1]['source']).startswith(':::{admonition} Mind\n:class: note\n')
    assert '(1.1)' in str(b) and '(2.2)' in str(b)

def test_unknown_equation_stops_the_build(small):
    nbs = small(index=['md # Home\n\nSee @eq-nowhere.'], **{'01_a': ['md # A']})
    with pytest.raises(SystemExit, match='index: @eq-nowhere is defined by no page'): build.Site(nbs).page('index')

@pytest.mark.parametrize('fault', ['[gone](03_gone.ipynb)', '$\\nosuchcommand$'])
def test_a_warning_fails_the_build(small, tmp_path, fault):
    nbs = small(index=[f'md # Home\n\n{fault}'], **{'01_a': ['md # A']})
    assert make(tmp_path/'html', nbs).returncode != 0

def test_mathml_as_tex_means_it():
    sys.modules.pop('conf', None)
    from conf import mathml
    half = re.sub(r'\s', '', mathml(r'\tfrac12 x', False))
    assert '<mn>1</mn><mn>2</mn></mfrac>' in half
    assert mathml(r'\lVert U\rVert_2', False).count('stretchy="false"') == 2 and '⟹' in mathml(r'a \implies b', True)
    assert 'minsize' in mathml(r'\big(a\big)', False) and '‖' in mathml(r'\Big\lVert a\Big\rVert', True)

# ---- in a browser

HOW = 'no browser: apt-get install chromium chromium-driver'

@pytest.fixture(scope='session')
def browser():
    chrome, driver = shutil.which('chromium') or shutil.which('google-chrome'), shutil.which('chromedriver')
    if not (chrome and driver): (pytest.fail if os.environ.get('CI_BROWSER') else pytest.skip)(HOW)
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = chrome
    for a in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-proxy-server'): options.add_argument(a)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as b: yield b

@pytest.fixture(scope='session')
def address(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown(); server.server_close()

def resize(browser, width):
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=1400, deviceScaleFactor=1, mobile=width < 600))

def complaints(browser, address):
    "What the console and the network had to say since the last call: errors, failed requests, other hosts."
    found = [e['message'] for e in browser.get_log('browser') if e['level'] in ('SEVERE', 'WARNING')]
    for m in (json.loads(e['message'])['message'] for e in browser.get_log('performance')):
        if m['method'] == 'Network.responseReceived' and m['params']['response']['status'] >= 400: found.append(m['params']['response']['url'])
        if m['method'] == 'Network.loadingFailed' and not m['params'].get('canceled'): found.append(m['params']['errorText'])
        if m['method'] == 'Network.requestWillBeSent' and not m['params']['request']['url'].startswith((address, 'data:', 'blob:')): found.append(m['params']['request']['url'])
    return found

def shoot(browser, name):
    if folder := os.environ.get('SITE_SHOTS'): browser.save_screenshot(f'{folder}/{name}.png')

@pytest.mark.parametrize('width', [390, 1280])
@pytest.mark.parametrize('page', PAGES)
def test_page_in_a_browser(browser, address, page, width):
    resize(browser, width)
    browser.get(f'{address}{page}.html')
    browser.execute_async_script('document.fonts.ready.then(arguments[0])')
    shoot(browser, f'{page}-{width}')
    assert complaints(browser, address) == []
    wide, room = browser.execute_script('return [document.documentElement.scrollWidth, window.innerWidth]')
    assert wide <= room == width, 'the page scrolls sideways'
    assert browser.execute_script("return [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)") == []
    assert browser.execute_script("return [...document.querySelectorAll('article math')].filter(m => m.checkVisibility() && m.getBoundingClientRect().width < 2).length") == 0
    if browser.execute_script("return !!document.querySelector('article math')"): assert browser.execute_script("return document.fonts.check('16px \"Site Math\"')")

@pytest.mark.parametrize('page', [p for p in PAGES if p[:2].isdigit()])
def test_no_code_is_cut_off(browser, address, page):
    "At 1280 px; at 390 px it can be scrolled, or is wrapped."
    resize(browser, 1280)
    browser.get(f'{address}{page}.html')
    cut = browser.execute_script("return [...document.querySelectorAll('article .highlight pre')].filter(p => p.checkVisibility() && p.scrollWidth > p.clientWidth + 1).map(p => p.innerText.split('\\n').sort((a, b) => b.length - a.length)[0])")
    assert cut == []

SOUGHT = {'replace LSTM': '91_coming_from', 'mixed precision': '92_mixed_precision', 'several GPUs': '93_several_gpus', 'long sequences': '94_long_sequences',
          'export ONNX': '95_onnx', 'onnx': '95_onnx', 'warm start': '96_warm_start', 'does not converge': '97_diagnosis', 'Lightning': '98_recipes', 'cite': '99_cite',
          'API': 'api', 'deploy': '46_deploy'}

@pytest.mark.parametrize('words', SOUGHT)
def test_search_finds_it_in_three(browser, address, words):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
    resize(browser, 1280)
    browser.get(f'{address}search.html?q={words.replace(" ", "+")}')
    WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, '#search-results li a') and 'Search finished' in b.page_source or 'found' in b.find_element(By.ID, 'search-results').text)
    found = [a.get_attribute('href') for a in browser.find_elements(By.CSS_SELECTOR, '#search-results li > a')][:3]
    assert any(f'{SOUGHT[words]}.html' in f for f in found), found

def test_print_leaves_out_the_navigation(browser, address):
    resize(browser, 1280)
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(media='print'))
    browser.get(f'{address}01_solvers.html')
    seen = browser.execute_script("return [...document.querySelectorAll('.sidebar-drawer, .toc-drawer, .page-links')].filter(e => e.checkVisibility()).length")
    wrapped = browser.execute_script("return getComputedStyle(document.querySelector('article .highlight pre')).whiteSpace")
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(media=''))
    assert seen == 0 and wrapped.startswith('pre-wrap')

def test_pictures_are_dark_in_dark_mode(browser, address):
    resize(browser, 1280)
    browser.get(f'{address}01_solvers.html')
    look = "return getComputedStyle(document.querySelector('.cell img')).filter"
    browser.execute_script("document.body.dataset.theme = 'light'")
    light = browser.execute_script(look)
    browser.execute_script("document.body.dataset.theme = 'dark'")
    assert light == 'none' and 'invert' in browser.execute_script(look)

def test_search_finds_anderson(browser, address):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
    resize(browser, 1280)
    browser.get(f'{address}index.html')
    box = browser.find_element(By.CSS_SELECTOR, '.sidebar-search')
    box.send_keys('Anderson'); box.submit()
    WebDriverWait(browser, 20).until(lambda b: b.find_elements(By.CSS_SELECTOR, '#search-results li a') and '01_solvers.html' in b.page_source)
    found = [a.get_attribute('href') for a in browser.find_elements(By.CSS_SELECTOR, '#search-results li a')]
    shoot(browser, 'search-1280')
    assert any('01_solvers.html' in f for f in found), found
    assert complaints(browser, address) == []

def test_dark_mode(browser, address):
    resize(browser, 1280)
    browser.get(f'{address}01_solvers.html')
    tone = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    seen = [browser.execute_script(tone)]
    for _ in range(2):
        browser.execute_script("[...document.querySelectorAll('.theme-toggle')].find(b => b.checkVisibility()).click()")
        seen.append(browser.execute_script(tone))
        shoot(browser, f'dark-{len(seen)}')
    assert min(seen) < 150 and max(seen) > 600, 'no dark mode'
    browser.execute_script('localStorage.clear()')
