"""What the documents repeat from the code, compared with the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from test_layers import ROOMS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))


def test_the_page_on_architecture_names_the_rooms_in_their_order() -> None:
    text = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    table = text.partition('\n| room |')[2].partition('\n\n')[0]
    cells = re.findall(r'^\| (`[^|]*) \|', table, re.MULTILINE)
    assert tuple(re.findall(r'`(\w+)`', ' '.join(cells))) == ROOMS


def test_the_citation_names_the_version_and_licence_of_the_project() -> None:
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['cff-version'] == '1.2.0'
    assert citation['version'] == PROJECT['project']['version']
    assert citation['license'] == PROJECT['project']['license']
    assert [author['name'] for author in citation['authors']] == [
        author['name'] for author in PROJECT['project']['authors']
    ]


def test_what_goes_into_the_source_distribution_exists() -> None:
    for name in PROJECT['tool']['hatch']['build']['targets']['sdist']['include']:
        assert (ROOT / name.lstrip('/')).exists(), name


def test_every_page_is_in_the_index_and_every_link_leads_somewhere() -> None:
    index = (ROOT / 'docs' / 'index.md').read_text(encoding='utf-8').split()
    pages = sorted((ROOT / 'docs').glob('*.md'))
    assert {page.stem for page in pages} - {'index'} <= set(index)
    for page in [*pages, *ROOT.glob('*.md')]:
        for link in re.findall(r'\]\(([^)#]+)', page.read_text(encoding='utf-8')):
            assert '://' in link or (page.parent / link).exists(), f'{page.name}: {link}'
