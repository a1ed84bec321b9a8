"""Files in memory, spoilt by their meaning and put together again so that readers get far."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy
import yaml
from fuzz_mutations import spoil_arrays, spoil_bytes, spoil_text, spoil_tree

__all__ = ['MEANINGS', 'SPECIAL', 'zip_bytes', 'zip_members']


def zip_members(data: bytes) -> dict[str, bytes]:
    """Returns the members of a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    """Returns a zip of the members, their sums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as bundle:
        for name, data in members.items():
            bundle.writestr(name, data)
    return buffer.getvalue()


def npz(data: bytes, rng: random.Random) -> bytes:
    """Returns an NPZ with other arrays, or with spoilt bytes inside of an array's file."""
    if rng.random() < 0.25:
        members = zip_members(data)
        name = rng.choice(sorted(members))
        # headers are text at the beginning
        head = 128 if rng.random() < 0.7 else len(members[name])
        members[name] = spoil_bytes(members[name][:head], rng) + members[name][head:]
        return zip_bytes(members)
    with numpy.load(io.BytesIO(data)) as file:
        arrays = spoil_arrays(dict(file), rng)
    buffer = io.BytesIO()
    numpy.savez(buffer, **arrays)
    return buffer.getvalue()


def hdf5(data: bytes, rng: random.Random) -> bytes:
    """Returns an HDF5 file with other arrays, attributes, groups or links."""
    arrays: dict[str, Any] = {}
    attributes: dict[str, dict[str, Any]] = {}

    def keep(name: str, node: Any) -> None:
        attributes[name] = dict(node.attrs)
        if isinstance(node, h5py.Dataset):
            arrays[name] = node[()]

    with h5py.File(io.BytesIO(data), 'r') as file:
        file.visititems(keep)
    arrays = spoil_arrays(arrays, rng) if rng.random() < 0.8 else arrays
    if rng.random() < 0.3:
        attributes = spoil_tree(attributes, rng)
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w') as file:
        for name, value in arrays.items():
            try:
                file[name] = value
            except (TypeError, ValueError, OSError, AttributeError, RuntimeError):
                file.require_group('text')[name.replace('/', '_')] = str(value)
        for name, found in attributes.items() if isinstance(attributes, dict) else ():
            for key, value in found.items() if isinstance(found, dict) and name in file else ():
                try:
                    file[name].attrs[key] = value
                except (TypeError, ValueError, OSError, OverflowError, RuntimeError):
                    file[name].attrs['other'] = 'x'
        _link(file, rng)
    return buffer.getvalue()


def _link(file: h5py.File, rng: random.Random) -> None:
    if rng.random() > 0.15 or not len(file):
        return
    name = rng.choice(sorted(file))
    del file[name]
    kind = rng.randrange(4)
    if kind == 0:
        file[name] = h5py.SoftLink('/nowhere')
    elif kind == 1:
        file[name] = h5py.SoftLink(f'/{name}')
    elif kind == 2:
        file[name] = h5py.ExternalLink('nothing.h5', '/x')
    else:
        file.create_group(name)


def as_json(data: bytes, rng: random.Random) -> bytes:
    """Returns JSON of another tree."""
    text = json.dumps(spoil_tree(json.loads(data), rng))
    return (spoil_text(text, rng) if rng.random() < 0.1 else text).encode('utf-8', 'replace')


def as_yaml(data: bytes, rng: random.Random) -> bytes:
    """Returns YAML of another tree, or other lines."""
    if rng.random() < 0.4:
        return spoil_text(data.decode(), rng).encode('utf-8', 'replace')
    tree = spoil_tree(yaml.safe_load(data), rng)
    return yaml.safe_dump(tree, allow_unicode=True).encode('utf-8', 'replace')


def cbor(data: bytes, rng: random.Random) -> bytes:
    """Returns CBOR of another tree."""
    import cbor2

    return cbor2.dumps(spoil_tree(cbor2.loads(data), rng))


def text(data: bytes, rng: random.Random) -> bytes:
    """Returns other lines."""
    return spoil_text(data.decode(), rng).encode('utf-8', 'replace')


def mat(data: bytes, rng: random.Random) -> bytes:
    """Returns a MAT file of version 5 with other arrays."""
    from scipy.io import loadmat, savemat

    found = loadmat(io.BytesIO(data))
    arrays = spoil_arrays({k: x for k, x in found.items() if not k.startswith('__')}, rng)
    buffer = io.BytesIO()
    kept = {k: x for k, x in arrays.items() if numpy.asarray(x).dtype.kind in 'biufcUS'}
    savemat(buffer, kept)
    return buffer.getvalue()


def archive(data: bytes, rng: random.Random) -> bytes:
    """Returns an archive of ours with a member of another meaning, all sums right."""
    from safetensors.numpy import load, save

    members = zip_members(data)
    name = rng.choice(sorted(members))
    if name.endswith('.json'):
        members[name] = as_json(members[name], rng)
    elif name.endswith('.safetensors') and rng.random() < 0.7:
        arrays = {
            key: x for key, x in spoil_arrays(load(members[name]), rng).items()
            if isinstance(x, numpy.ndarray) and x.dtype.kind in 'biuf' and x.dtype.isnative
        }  # fmt: skip
        members[name] = save({key: numpy.ascontiguousarray(x) for key, x in arrays.items()})
    elif name.endswith('.csv'):
        members[name] = text(members[name], rng)
    else:
        members[name] = spoil_bytes(members[name], rng)
    try:
        manifest = json.loads(members['manifest.json'])
        manifest['sha256'] = {
            key: hashlib.sha256(x).hexdigest() for key, x in members.items() if 'mani' not in key
        }
        members['manifest.json'] = json.dumps(manifest).encode()
    except (ValueError, TypeError, KeyError):
        pass  # without sums
    return zip_bytes(members)


def checkpoint(data: bytes, rng: random.Random) -> bytes:
    """Returns a torch file with another tree, other tensors, or a spoilt pickle."""
    import torch

    if rng.random() < 0.4:
        members = zip_members(data)
        name = next(item for item in members if item.endswith('data.pkl'))
        members[name] = spoil_bytes(members[name], rng)
        return zip_bytes(members)

    def spoil_tensor(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return None
        kind = rng.randrange(8)
        if kind < 3:
            names = ('bfloat16', 'float16', 'float64', 'int64', 'bool', 'complex64')
            return value.to(getattr(torch, rng.choice(names)))
        if kind == 3:
            return value.new_zeros(1).expand(rng.choice(((3, 3), (10**5, 10**5), (10**9,))))
        if kind == 4:
            return value.to_sparse() if value.ndim else value
        if kind == 5:
            return value.to('meta')
        if kind == 6:
            return value.reshape(-1)[: rng.randrange(3)]
        return value * float('nan')

    tree = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    buffer = io.BytesIO()
    torch.save(spoil_tree(tree, rng, spoil_tensor), buffer)
    return buffer.getvalue()


def tensorflow(data: bytes, rng: random.Random) -> bytes:
    """Returns an archive of PtychoPINN's TensorFlow code with a part of another meaning."""
    members = zip_members(data)
    kind = rng.randrange(4)
    name = rng.choice([item for item in members if item.endswith('.dill')])
    if kind == 0:
        members[name] = spoil_bytes(members[name], rng)
    elif kind == 1:
        name = 'diffraction_to_obj/params.dill'
        members[name] = pickle.dumps(spoil_tree(PARAMS, rng), protocol=rng.randrange(6))
    else:
        name = 'diffraction_to_obj/model.keras'
        inner = zip_members(members[name])
        part = 'config.json' if kind == 2 else 'model.weights.h5'
        inner[part] = (as_json if kind == 2 else hdf5)(inner[part], rng)
        members[name] = zip_bytes(inner)
    return zip_bytes(members)


PARAMS = {
    'N': 64,
    'gridsize': 1,
    'nphotons': 1e6,
    'probe': numpy.ones((4, 4), 'c8'),
    'names': ['a', ('b', 3)],
}
"""Parameters as they lie in an archive of the TensorFlow code."""

MEANINGS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    'npz': npz,
    'hdf5': hdf5,
    'json': as_json,
    'yaml': as_yaml,
    'cbor': cbor,
    'text': text,
    'mat': mat,
    'archive': archive,
    'checkpoint': checkpoint,
    'tensorflow': tensorflow,
}
"""How each format is spoilt by its meaning."""

LAUGHS = b'a: &a [x,x,x,x,x,x,x,x,x]\n' + b''.join(
    b'%c: &%c [%s]\n' % (98 + i, 98 + i, b','.join([b'*%c' % (97 + i)] * 9)) for i in range(8)
)
MERGES = b'a: &a {x: 1}\n' + b''.join(
    b'%c: &%c {<<: [%s]}\n' % (98 + i, 98 + i, b','.join([b'*%c' % (97 + i)] * 9)) for i in range(8)
)
"""Values that stand for nine others, which stand for nine others ..."""

SPECIAL: dict[str, tuple[bytes, ...]] = {
    'json': (
        b'', b'[', b'[' * 100_000, b'{"a":' * 100_000, b'1' * 100_000, b'\xff\xfe', b'"\\ud800"',
        b'{"training": {"max_steps": ' + b'9' * 5000 + b'}}', b'NaN', b'{"mode": NaN}',
        b'{"a\\u001b[2J": 1}',
    ),
    'yaml': (
        *(LAUGHS + place for place in (b'mode: *i', b'N: *i', b'*i : 1', b'training: *i')),
        b'training: {max_steps: *i}\n' + LAUGHS, LAUGHS + b'training: {max_steps: *i}',
        MERGES + b'<<: *i', LAUGHS, b'training: &a [*a]', b'[' * 100_000, b'{' * 100_000, b'- ' * 50_000, b'? ' * 50_000,
        b'!!python/object/apply:os.system [ls]', b'training: !!binary x', b'\t', b'a: b: c',
        b'training: {max_steps: 1_0_0:59:59}', b'training: 2001-01-01', b'? [a]\n: b',
        b'&' * 9000, b'training:\n  max_steps: ' + b'9' * 50_000, b'<<: [1]',
    ),
    'cbor': (
        b'\x9b' + b'\x7f' * 8, b'\xbb' + b'\x7f' * 8, b'\x5b' + b'\x7f' * 8, b'\x7b' + b'\xff' * 8,
        b'\x9f' * 50_000, b'\xd9\xd9\xf7' * 50_000, b'\xc2\x5a\x00\x10\x00\x00' + b'\xff' * 2**20,
        b'\xc4\x82\x1b' + b'\x7f' * 8 + b'\x01', b'\xc5\x82\x1b' + b'\x7f' * 8 + b'\x01',
        b'\xd8\x1c\x81\xd8\x1d\x00', b'\xd8\x23\x78\x20' + b'(a+)+' * 6 + b'aa', b'\xc0\x61x',
        b'\xd9\x01\x02\x81\xa0', b'\xa1\xa0\x00', b'\xc1\xfb' + b'\x7f' * 8,
        b'\xda\x00\x00\x9c\x4c' + b'\x80', b'\x1a\x00', b'\xf8\xff', b'\xff',
    ),
    'text': (b'', b'\x00' * 100, b'1\n' * 200_000, b'9' * 100_000, b'nan', b'\xff\xfe1\x00', b'1 2\n3'),
}  # fmt: skip
"""Files that are made to harm, by format."""

warnings.filterwarnings('ignore', category=UserWarning, module='zipfile')
