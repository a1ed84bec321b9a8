"""Ways to spoil a file: by its bytes, and by what they mean."""

from __future__ import annotations

import copy
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy

__all__ = ['spoil_arrays', 'spoil_bytes', 'spoil_text', 'spoil_tree']

Arrays = dict[str, Any]

NUMBERS = (0, 1, -1, 2, 7, 255, 2**31, 2**63, -(2**63), 10**18, 10**400, 1.5, -2.5, 1e300, 1e-300)
STRANGE = (float('nan'), float('inf'), -float('inf'))
WORDS = ('', 'x', 'nan', '1', 'auto', '\x1b[2Jx', '\u202ex', '../../etc/passwd', 'x' * 5000, '\x00')


def spoil_bytes(data: bytes, rng: random.Random) -> bytes:
    """Returns the bytes with some changed, cut, copied, zeroed, or spoilt where files begin."""
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 40)))
    changed, kind, size = bytearray(data), rng.randrange(7), len(data)
    start = rng.randrange(size)
    length = rng.randrange(1, max(2, size // 3))
    if kind == 0:
        for _ in range(rng.randrange(1, 20)):
            changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del changed[start:]
    elif kind == 2:
        del changed[start : start + length]
    elif kind == 3:
        changed[start : start + length] = bytes(len(changed[start : start + length]))
    elif kind == 4:
        place = rng.randrange(size)
        changed[place : place + length] = changed[start : start + length]
    elif kind == 5:
        for _ in range(rng.randrange(1, 6)):
            changed[rng.randrange(min(size, 200))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    else:
        for _ in range(rng.randrange(1, 6)):
            changed[rng.randrange(max(0, size - 200), size)] = rng.choice((0, 1, 0x7F, 0xFF))
    return bytes(changed)


def spoil_text(text: str, rng: random.Random) -> str:
    """Returns the text with a word or a line replaced, doubled or left out."""
    lines = text.splitlines() or ['']
    index = rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        lines[index] = rng.choice(WORDS)
    elif kind == 1:
        lines.insert(index, lines[index])
    elif kind == 2:
        del lines[index]
    elif kind == 3:
        lines[index] = lines[index].replace('1', str(rng.choice((*NUMBERS[:10], *STRANGE))))
    else:
        lines.insert(index, rng.choice((',,,', '\t' * 50, '#', '[' * 9000, '1e999', '- -', '{')))
    return '\n'.join(lines)


def strange_value(rng: random.Random, depth: int = 0) -> Any:
    """Returns a value of any type that JSON and YAML know."""
    kind = rng.randrange(8 if depth < 2 else 5)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind in (1, 2):
        return rng.choice(NUMBERS)
    if kind == 3:
        return rng.choice(STRANGE)
    if kind == 4:
        return rng.choice(WORDS)
    if kind == 5:
        return [strange_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {rng.choice(WORDS[:5]): strange_value(rng, depth + 1) for _ in range(2)}
    nested: Any = 1
    for _ in range(rng.choice((5, 40, 300))):
        nested = [nested] if rng.random() < 0.5 else {'a': nested}
    return nested


def spoil_tree(
    tree: Any, rng: random.Random, leaf: Callable[[Any], Any] | None = None, most: int = 3
) -> Any:
    """Returns a tree of dicts and lists with a few places replaced, renamed, doubled or left out.

    `leaf` may spoil a value of another kind in its own way.
    """
    changed = copy.deepcopy(tree)
    for _ in range(rng.randrange(1, most + 1)):
        places = list(_places(changed))
        if not places or rng.random() < 0.02:
            return strange_value(rng)
        node, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[rng.choice((f'{key}_', str(key).upper(), *WORDS))] = node.pop(key)
        elif kind == 2 and isinstance(node, dict):
            node[rng.choice((*WORDS, 'kind', 'N', 'model'))] = strange_value(rng)
        else:
            own = None if leaf is None else leaf(node[key])
            node[key] = strange_value(rng) if own is None else own
    return changed


def _places(tree: Any) -> Any:
    items: Sequence[Any] = ()
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree[:20]))
    for key, value in items:
        yield tree, key
        yield from _places(value)


def spoil_arrays(arrays: Arrays, rng: random.Random) -> Arrays:
    """Returns arrays with one or two of another type, shape or value, missing, renamed or new."""
    changed = dict(arrays)
    for _ in range(rng.choice((1, 1, 1, 2))):
        key = rng.choice(sorted(changed) or ['x'])
        value = numpy.asarray(changed.pop(key, 0))
        kind = rng.randrange(12)
        if kind == 0:
            continue
        if kind == 1:
            changed[
                rng.choice((f'{key}_', key.upper(), key[:-1] or 'q', rng.choice(WORDS[1:4])))
            ] = value
        elif kind == 2:
            changed[key] = value
            changed[
                rng.choice(('mask', 'truth', 'object', 'probe', 'positions_px', 'bad_pixels'))
            ] = rng.choice(list(changed.values()))
        elif kind < 6:
            changed[key] = _of_another_type(value, rng)
        elif kind < 9:
            changed[key] = _of_another_shape(value, rng)
        else:
            changed[key] = _of_other_values(value, rng)
    return changed


def _of_another_type(value: Any, rng: random.Random) -> Any:
    kinds = (
        'f4',
        'f8',
        'f2',
        'i8',
        'u1',
        'i2',
        'u8',
        '?',
        'c8',
        'c16',
        '>f8',
        '>u2',
        'S4',
        'U4',
        'M8[s]',
        'm8[D]',
        'O',
        'V8',
    )
    kind = rng.choice((*kinds, 'struct', 'words', 'pair'))
    with numpy.errstate(all='ignore'):
        if kind == 'struct':
            made = numpy.zeros(value.shape, [('a', 'f4'), ('b', 'i2')])
            return made
        if kind == 'words':
            return numpy.full(value.shape, 'word')
        if kind == 'pair':
            return numpy.stack([value.real, value.imag], axis=-1)
        if kind == 'V8':
            return numpy.zeros(value.shape, 'V8')
        try:
            return value.astype(kind)
        except (TypeError, ValueError):
            return numpy.zeros(value.shape, kind)


def _of_another_shape(value: Any, rng: random.Random) -> Any:
    kind = rng.randrange(11)
    if kind == 0:
        return value.reshape(-1)
    if kind == 1:
        return value[None]
    if kind == 2:
        return value[..., None]
    if kind == 3:
        return value.T
    if kind == 4:
        return value[:0] if value.ndim else value
    if kind == 5:
        return value.reshape(-1)[0] if value.size else value
    if kind == 6:
        return value[: max(1, len(value) // 2)] if value.ndim else value
    if kind == 7:
        return numpy.repeat(value, 2, axis=rng.randrange(value.ndim)) if value.ndim else value
    if kind == 8:
        return value[..., : max(1, value.shape[-1] - 1)] if value.ndim else value
    if kind == 9:
        return numpy.zeros((0,) * max(1, value.ndim), value.dtype)
    return numpy.zeros((1,) * 5, value.dtype)


def _of_other_values(value: Any, rng: random.Random) -> Any:
    made = numpy.array(value, copy=True)
    if made.dtype.kind not in 'biufc' or not made.size:
        return made
    kind = rng.randrange(9)
    flat = made.reshape(-1)
    places = [rng.randrange(flat.size) for _ in range(rng.choice((1, 3, flat.size // 2 + 1)))]
    with numpy.errstate(all='ignore'):
        if kind < 4:
            if made.dtype.kind in 'biu':
                limits = numpy.iinfo(made.dtype if made.dtype.kind != 'b' else 'u1')
                flat[places] = (
                    rng.choice((limits.max, limits.min, 0)) if made.dtype.kind != 'b' else 1
                )
            else:
                limit = float(numpy.finfo(made.dtype).max)
                flat[places] = rng.choice((*STRANGE, limit, -limit, 0.0))
        elif kind == 4:
            flat[:] = flat[0]
        elif kind == 5:
            flat[:] = 0
        elif kind == 6:
            made = -made if made.dtype.kind not in 'b' else ~made
        elif kind == 7:
            made = made * rng.choice((1e9, 1e18, 1e-9, 1e300, 3e4))
        else:
            rng_ = numpy.random.default_rng(zlib.crc32(str(rng.random()).encode()))
            made = (1e6 * rng_.standard_normal(made.shape)).astype(made.dtype)
    return made.reshape(numpy.shape(value))
