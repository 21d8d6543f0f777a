import pytest
import qr

ADDRESS = "http://10.0.0.7:80/"
# An independent decoder has read the address from this picture.
PICTURE = """
#######..#..#..##.#######
#.....#...####.#..#.....#
#.###.#.###.#.#.#.#.###.#
#.###.#..###....#.#.###.#
#.###.#...#..####.#.###.#
#.....#..#....##..#.....#
#######.#.#.#.#.#.#######
........###.###..........
###.#####.##..##.##...#..
.#.##.....##.....###....#
.#.#..#..#...#...#..#.###
#.####.##..#....####...#.
#.##..#.#...#.....##.#.##
.###.#...#.###....##.#..#
#.#.#.##...##.#.#.###.###
.#.##..##...###.##.#.#.#.
#.#.###..#.#..########...
........#..#..###...#####
#######.##...#.##.#.#..##
#.....#.####...##...##..#
#.###.#.##..#...#####...#
#.###.#....###.#.#..#.#..
#.###.#.#####.#.#...##..#
#.....#.#...###.#.#.##.#.
#######.####..#.#..#...##
"""


def test_the_code_for_an_address_is_the_one_that_a_decoder_has_read() -> None:
    matrix = qr.encode(ADDRESS)
    assert matrix is not None
    assert ["".join(".#"[dark] for dark in row) for row in matrix] == PICTURE.split()


@pytest.mark.parametrize(
    ("length", "side"), [(1, 21), (17, 21), (18, 25), (32, 25), (33, 29), (78, 33), (106, 37)]
)
def test_a_code_is_as_small_as_its_text_allows(length: int, side: int) -> None:
    drawing = qr.draw("x" * length)
    assert drawing is not None
    assert drawing.side == side


def test_a_text_that_is_too_long_gets_no_code() -> None:
    assert qr.draw("x" * 107) is None


def test_the_path_has_a_square_for_each_dark_module() -> None:
    drawing = qr.draw(ADDRESS)
    assert drawing is not None
    assert drawing.path.count("z") == PICTURE.count("#")
    assert drawing.path.startswith("M0 0h1v1h-1zM1 0h1v1h-1z")
