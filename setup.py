"""Everything is read from settings.ini, the one place where the project is described."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

HERE = Path(__file__).resolve().parent
STATUS = {'1': 'Planning', '2': 'Pre-Alpha', '3': 'Alpha', '4': 'Beta', '5': 'Production/Stable'}
EXTRAS = 'study', 'data', 'onnx', 'recipes', 'dev'

parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read(HERE/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

def words(key): return cfg.get(key, '').split()

def classifiers():
    oldest = int(cfg['min_python'].split('.')[1])
    return [f'Development Status :: {cfg["status"]} - {STATUS[cfg["status"]]}',
            f'Intended Audience :: {cfg["audience"]}', 'Intended Audience :: Science/Research',
            f'Natural Language :: {cfg["language"]}', 'Operating System :: OS Independent',
            'Programming Language :: Python :: 3', 'Programming Language :: Python :: 3 :: Only',
            *(f'Programming Language :: Python :: 3.{n}' for n in range(oldest, 14)),
            'Topic :: Scientific/Engineering :: Artificial Intelligence', 'Typing :: Typed']

def urls():
    "Where settings.ini says the code and the site are; nothing where it does not."
    git, host = cfg.get('git_url', ''), cfg.get('doc_host', '')
    found = {'Source': git, 'Issues': git and f'{git}/issues', 'Documentation': host and host + cfg.get('doc_baseurl', '')}
    return {name: url for name, url in found.items() if url}

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], license_expression='Apache-2.0', license_files=['LICENSE'],
    url=cfg.get('git_url') or None, project_urls=urls(), classifiers=classifiers(),
    long_description=(HERE/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*']),
    package_data={cfg['lib_path']: ['py.typed']}, zip_safe=False,
    python_requires='>=' + cfg['min_python'], install_requires=words('requirements'),
    extras_require={name: words(f'{name}_requirements') for name in EXTRAS},
    entry_points={'console_scripts': [cfg['console_scripts']], 'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
)
