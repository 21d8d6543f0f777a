"""A QR code for the audience's address, as a path for SVG (ISO/IEC 18004, byte mode, level L).

Supports only short addresses: up to 106 bytes (versions 1 to 5, which have a single block), and
always mask 0, since a reader accepts any of the eight.
"""

from collections.abc import Iterator
from typing import NamedTuple

# Version: how many codewords hold data, and how many correct errors.
_SIZES = {1: (19, 7), 2: (34, 10), 3: (55, 15), 4: (80, 20), 5: (108, 26)}
_LEVEL_L_MASK_0 = 0b01_000

Matrix = list[list[bool]]
Taken = set[tuple[int, int]]  # (row, column) of modules that do not carry data


class Drawing(NamedTuple):
    side: int  # modules
    path: str  # a unit square for each dark module


def draw(text: str) -> Drawing | None:
    """The code for ``text``, or ``None`` if that is too long for a small one."""
    matrix = encode(text)
    if matrix is None:
        return None
    squares = (
        f"M{x} {y}h1v1h-1z" for y, row in enumerate(matrix) for x, dark in enumerate(row) if dark
    )
    return Drawing(len(matrix), "".join(squares))


def encode(text: str) -> Matrix | None:
    data = text.encode()
    for version, (capacity, corrections) in _SIZES.items():
        if len(data) + 2 <= capacity:  # Mode and length take 12 bits, the terminator 4.
            codewords = _codewords(data, capacity)
            return _place(version, codewords + _remainder(codewords, corrections))
    return None


def _codewords(data: bytes, capacity: int) -> bytes:
    """Mode 0100 (bytes), the length in 8 bits, the data, the terminator 0000, and padding."""
    bits = (0b0100 << 8 | len(data)) << 8 * len(data) | int.from_bytes(data, "big")
    used = (bits << 4).to_bytes(len(data) + 2, "big")
    return (used + b"\xec\x11" * capacity)[:capacity]


def _remainder(codewords: bytes, corrections: int) -> bytes:
    """Reed-Solomon: return the remainder of the codewords divided by the generator polynomial."""
    divisor = [1]
    root = 1
    for _ in range(corrections):
        divisor = [
            low ^ _multiply(high, root)
            for low, high in zip([*divisor, 0], [0, *divisor], strict=True)
        ]
        root = _multiply(root, 2)
    rest = list(codewords) + [0] * corrections
    for i in range(len(codewords)):
        factor = rest[i]
        for j, coefficient in enumerate(divisor):
            rest[i + j] ^= _multiply(coefficient, factor)
    return bytes(rest[len(codewords) :])


def _multiply(a: int, b: int) -> int:
    """In the field of 256 elements whose polynomial is x^8 + x^4 + x^3 + x^2 + 1."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = a << 1 ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return product


def _place(version: int, codewords: bytes) -> Matrix:
    size = 17 + 4 * version
    matrix = [[False] * size for _ in range(size)]
    taken: Taken = set()

    def square(row: int, column: int, radius: int, light_ring: int) -> None:
        """Concentric rings, dark but for one and the edge outside of a finder."""
        for r in range(max(0, row - radius), min(size, row + radius + 1)):
            for c in range(max(0, column - radius), min(size, column + radius + 1)):
                ring = max(abs(r - row), abs(c - column))
                matrix[r][c] = ring not in (light_ring, 4)
                taken.add((r, c))

    for i in range(8, size - 8):  # Timing lines.
        matrix[6][i] = matrix[i][6] = i % 2 == 0
        taken.update({(6, i), (i, 6)})
    for row, column in ((3, 3), (3, size - 4), (size - 4, 3)):  # Finders.
        square(row, column, 4, light_ring=2)
    if version > 1:
        square(size - 7, size - 7, 2, light_ring=1)  # The alignment pattern.
    _draw_format(matrix, taken)

    bits = (byte >> shift & 1 for byte in codewords for shift in range(7, -1, -1))
    for row, column in _data_modules(size, taken):
        matrix[row][column] = bool(next(bits, 0)) ^ ((row + column) % 2 == 0)  # Mask 0.
    return matrix


def _draw_format(matrix: Matrix, taken: Taken) -> None:
    """Level and mask with ten correcting bits, twice, and the one module that is always dark."""
    size = len(matrix)
    rest = _LEVEL_L_MASK_0 << 10
    for shift in range(4, -1, -1):
        if rest >> shift + 10 & 1:
            rest ^= 0b101_0011_0111 << shift
    bits = (_LEVEL_L_MASK_0 << 10 | rest) ^ 0b101_0100_0001_0010
    corner = [(i, 8) for i in (0, 1, 2, 3, 4, 5, 7, 8)] + [(8, i) for i in (7, 5, 4, 3, 2, 1, 0)]
    split = [(8, size - 1 - i) for i in range(8)] + [(size - 7 + i, 8) for i in range(7)]
    for places in (corner, split):
        for i, (row, column) in enumerate(places):
            matrix[row][column] = bool(bits >> i & 1)
            taken.add((row, column))
    matrix[size - 8][8] = True
    taken.add((size - 8, 8))


def _data_modules(size: int, taken: Taken) -> Iterator[tuple[int, int]]:
    """Up and down in pairs of columns from the right; the timing column is not part of a pair."""
    upwards = True
    for right in [*range(size - 1, 6, -2), *range(5, 0, -2)]:
        for row in range(size - 1, -1, -1) if upwards else range(size):
            for column in (right, right - 1):
                if (row, column) not in taken:
                    yield row, column
        upwards = not upwards
