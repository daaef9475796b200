import random
import re

import numpy as np
import pytest
from gemmi import cif

from sksubtomo.io import read_star
from sksubtomo.io.star import format_values, quote, unquote

RELION = b"""
# version 30001

data_optics

loop_ 
_rlnOpticsGroup #1 
_rlnImagePixelSize #2 
           1     2.500000 
           2     2.500000 
 

# version 30001

data_particles

loop_ 
_rlnMicrographName #1 
_rlnCoordinateX #2 
_rlnImageName #3 
_rlnClassNumber #4 
_rlnOpticsGroup #5 
       001    12.500000 000001@a.mrcs            3            1 
'my tomo'\t   13.500000 000002@a.mrcs            3            2 
   "it's"    14.500000 "3@a b.mrcs"             4            2 # note

"""  # noqa: W291, W293
CIF = b"""data_

loop_
_a
_b
1 [1,2]
x
;multi
line
;
;first
;  y

data_general

_rlnTomoSubTomosAre2DStacks   1
_text
;hello
world
;

data_empty

loop_
_c #1
_d #2

data_last
_x.y 'q'
"""
WINDOWS = (
    b"data_particles\r\n\r\nloop_\r\n_a #1\r\n_b #2\r\n1 2\r\n3 4\r\n\r\n"
    b"data_b\r\nloop_\r\n_c\r\n7\r\n8\r\n"
)


@pytest.fixture
def read(tmp_path):
    def read_bytes(content):
        path = tmp_path / "in.star"
        path.write_bytes(content)
        return read_star(path)

    return read_bytes


def written(star, tmp_path):
    star.write(tmp_path / "out.star")
    return (tmp_path / "out.star").read_bytes()


def contents(star):
    """Return all that a STAR file says, by this package."""
    return [
        (
            block.name,
            block.pairs,
            [
                (loop.tags, list(loop.columns(loop.tags).values()))
                for loop in block.loops
            ],
        )
        for block in star.blocks
    ]


def gemmi_value(token):
    value = token if token in ".?" else cif.as_string(token)
    return value.replace("\r\n", "\n")


def gemmi_contents(content):
    """Return all that a STAR file says, by gemmi."""
    blocks = []
    for block in cif.read_string(content):
        pairs, loops = {}, []
        for item in block:
            if item.pair is not None:
                pairs[item.pair[0][1:]] = gemmi_value(item.pair[1])
            elif item.loop is not None:
                width = item.loop.width()
                values = [gemmi_value(token) for token in item.loop.values]
                tags = [tag[1:] for tag in item.loop.tags]
                loops.append((tags, [values[k::width] for k in range(width)]))
            else:
                raise ValueError("save frame")
        # gemmi calls a nameless block " ".
        blocks.append((block.name.strip(), pairs, loops))
    return blocks


@pytest.mark.parametrize("content", [RELION, CIF, WINDOWS])
def test_same_as_gemmi_and_written_byte_for_byte(read, tmp_path, content):
    star = read(content)
    assert contents(star) == gemmi_contents(content)
    assert written(star, tmp_path) == content
    assert written(star.copy(), tmp_path) == content


def test_blocks_pairs_and_loops(read):
    star = read(CIF)
    assert [block.name for block in star.blocks] == ["", "general", "empty", "last"]
    loop = star.block("").loops[0]
    assert loop.tags == ["a", "b"]
    assert loop.line == 3
    assert len(loop) == 3
    assert "a" in loop
    assert "_a" not in loop
    assert loop.column("b") == ["[1,2]", "multi\nline", "y"]
    assert list(loop.columns(["b", "a"])) == ["b", "a"]
    assert star.block("general").pairs["text"] == "hello\nworld"
    assert len(star.block("empty").loops[0]) == 0
    assert star.block("none") is None


def test_a_changed_column_leaves_all_other_bytes(read, tmp_path):
    star = read(RELION)
    loop = star.block("particles").loops[0]
    loop.set_column("rlnClassNumber", [1, 2, 3])
    loop.set_column("sksubtomoClass", ["ribosome", "20S proteasome", ""])
    expected = RELION
    for old, new in [
        (b"_rlnOpticsGroup #5 \n", b"_rlnOpticsGroup #5 \n_sksubtomoClass #6\n"),
        (b"3            1 \n", b"1            1 ribosome \n"),
        (b"3            2 \n", b'2            2 "20S proteasome" \n'),
        (b"4            2 # note", b'3            2 "" # note'),
    ]:
        assert expected.count(old) == 1
        expected = expected.replace(old, new)
    assert written(star, tmp_path) == expected
    assert contents(star) == gemmi_contents(expected)


def test_columns_of_a_loop_with_text_fields(read, tmp_path):
    star = read(CIF)
    loop = star.block("").loops[0]
    loop.set_column("c", [1, 2, 3])
    both = written(star, tmp_path)
    assert contents(star) == gemmi_contents(both)
    assert b"[1,2] 1\n" in both
    assert b";multi\nline\n; 2\n" in both
    loop.set_column("b", ["p", "q q", "r"])
    assert contents(star) == gemmi_contents(written(star, tmp_path))
    loop.remove_column("b")
    out = written(star, tmp_path)
    assert contents(star) == gemmi_contents(out)
    assert loop.tags == ["a", "c"]
    assert b"multi" not in out


def test_line_ends_stay_as_they_are(read, tmp_path):
    star = read(WINDOWS)
    star.blocks[0].loops[0].set_column("c", ["x", "y z"])
    out = written(star, tmp_path)
    assert out == WINDOWS.replace(
        b"_b #2\r\n1 2\r\n3 4\r\n", b'_b #2\r\n_c #3\r\n1 2 x\r\n3 4 "y z"\r\n'
    )
    star.blocks[1].loops[0].set_column("d", [0, 0])
    # Tags without numbers get none.
    assert written(star, tmp_path).endswith(b"_c\r\n_d\r\n7 0\r\n8 0\r\n")


def test_removed_and_replaced_columns(read, tmp_path):
    star = read(RELION)
    loop = star.block("particles").loops[0]
    loop.remove_column("rlnMicrographName")
    loop.remove_column("rlnClassNumber")
    loop.set_column("rlnClassNumber", [7, 8, 9])
    loop.set_column("other", [7, 8, 9])
    loop.remove_column("other")
    out = written(star, tmp_path)
    assert contents(star) == gemmi_contents(out)
    assert re.findall(rb"_(\w+) #(\d)", out)[2:] == [
        (b"rlnCoordinateX", b"1"),
        (b"rlnImageName", b"2"),
        (b"rlnOpticsGroup", b"3"),
        (b"rlnClassNumber", b"4"),
    ]
    with pytest.raises(ValueError, match="column other: cannot be removed"):
        loop.remove_column("other")


def test_a_copy_is_changed_alone(read, tmp_path):
    star = read(RELION)
    copied = star.copy()
    copied.blocks[1].loops[0].set_column("rlnClassNumber", [1, 1, 1])
    copied.blocks[1].loops[0].set_column("new", [1, 1, 1])
    assert written(star, tmp_path) == RELION
    assert star.blocks[1].loops[0].column("rlnClassNumber") == ["3", "3", "4"]


def test_empty_loop_gets_columns(read, tmp_path):
    for content in (
        b"data_x\n\nloop_\n_a #1\n\n\ndata_y\n_b 1\n",
        b"data_x\nloop_\n_a #1",
    ):
        star = read(content)
        star.blocks[0].loops[0].set_column("c", [])
        out = written(star, tmp_path)
        assert out.startswith(content[: content.index(b"_a #1") + 5] + b"\n_c #2\n")
        assert contents(star) == gemmi_contents(out)


def test_a_last_row_without_a_line_end(read, tmp_path):
    star = read(b"data_x\nloop_\n_a\n1\n2")
    star.blocks[0].loops[0].set_column("b", [3, 4])
    assert written(star, tmp_path) == b"data_x\nloop_\n_a\n_b\n1 3\n2 4"


@pytest.mark.parametrize(
    ("rows", "a", "b"),
    [
        # RELION 5 has an empty line before the first row.
        ("\n1\t2\n", ["1"], ["2"]),
        ("# c\n1 2\n\n# d\n3 4 # e\n", ["1", "3"], ["2", "4"]),
        ("1#x $y\n", ["1#x"], ["$y"]),
        ("[1,0,1] a;b\n", ["[1,0,1]"], ["a;b"]),
        ("'a'b c' \"\"\n", ["a'b c"], [""]),
        ("o'brien/x.mrc ''\n", ["o'brien/x.mrc"], [""]),
        # A folder's name, as RELION reads it.
        ("data_21/x.mrc 2\n", ["data_21/x.mrc"], ["2"]),
        ("1 data_21/x.mrc\n", ["1"], ["data_21/x.mrc"]),
        ("1 _x\n", ["1"], ["_x"]),
        # White space, but not that of STAR.
        ("é\u00a0\u2003x 2\n", ["é\u00a0\u2003x"], ["2"]),
        (". ?\n", ["."], ["?"]),
        (f"{'x' * 100_000} 2\n", ["x" * 100_000], ["2"]),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_oddities_round_trip(read, tmp_path, rows, a, b, mark):
    content = f"data_p\nloop_ # c\n_a #1\n# d\n_b #2\n{rows}".encode()
    star = read(mark + content)
    loop = star.blocks[0].loops[0]
    assert loop.columns(loop.tags) == {"a": a, "b": b}
    assert written(star, tmp_path) == content
    new = [str(row) for row in range(len(loop))]
    loop.set_column("new", new)
    star.write(tmp_path / "new.star")
    again = read_star(tmp_path / "new.star").blocks[0].loops[0]
    assert again.columns(again.tags) == {"a": a, "b": b, "new": new}


def test_a_row_of_three_may_begin_with_an_underscore(read):
    star = read(b"data_p\nloop_\n_a\n_b\n_c\n_x y z\n_u v w\n")
    assert star.blocks[0].loops[0].column("a") == ["_x", "_u"]


def test_blocks_of_one_name_are_kept(read, tmp_path):
    content = b"data_\n_a 1\ndata_\n_a 2\ndata_b\n_a 3\n"
    star = read(content)
    assert [block.pairs["a"] for block in star.blocks] == ["1", "2", "3"]
    assert written(star, tmp_path) == content
    with pytest.raises(ValueError, match="has 2 blocks data_; expected one"):
        star.block("")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no block"),
        (b"\n# data_x\n", "has no block"),
        (b"hello data_x\n", "line 1: found 'hello'; expected data_"),
        (
            b"data_x\nloop_\n_a\n_b\n1 2\n3\n",
            "line 6: the row has 1 values; the loop has 2",
        ),
        (b"data_x\nloop_\n_a\n_b\n1 2 3 4\n", "line 5: the row has more than 2 values"),
        (
            b"data_x\nloop_\n_a\n_b\nmy tomo 2\n",
            "line 5: the row has more than 2 values",
        ),
        (b"data_x\nloop_\n_a\n_b\n1 #2\n", "line 5: the row has 1 values"),
        (b"data_x\nloop_\n_a\n_b\n'1 2\n", 'line 5: "\'1" opens a quoted text'),
        (b"data_x\nloop_\n_a\n_b\n1\n;2 3\n4\n", "line 6: ';2' opens a quoted text"),
        (b"data_x\nloop_\n_a\n_a\n1 2\n", "line 4: _a stands twice"),
        (b"data_x\nloop_\n\n1 2\n", "line 2: loop_ has no columns"),
        (b"data_x\nloop_ _a 1 2\n", "line 2: loop_ is followed by '_a'"),
        (b"data_x\nloop_\n_a\n_b 1\n", "line 4: '_b' has a value"),
        (b"data_x _a 1\n", "line 1: data_x is followed by '_a'"),
        (b"data_x\n_a\n\n", "line 2: _a has no value"),
        (b"data_x\n_a 1 2\n", "line 2: _a has more than one value"),
        (b"data_x\nloop_\n_a\n\xc3\xa9" + b" 1" * 9, "line 4: the row has more than 1"),
        (b"data_x\n_a 1\n_a 2\n", "line 3: _a stands twice"),
        (b"data_x\nloop_\n_a\n1\n_b\n2\n", "line 5: _b has no value"),
        (b"data_x\n1 2\n", "line 2: found '1' outside of a loop"),
        (b"data_x\nsave_y\n_a 1\nsave_\n", "line 2: found 'save_y' outside of a loop"),
        (
            b"data_x\nloop_\n_a\n_b\n1 2\nstop_\n",
            "line 6: found 'stop_' outside of a loop",
        ),
        (b"data_x\n_a \xe9\n", "line 2: the byte 0xe9 is not UTF-8"),
        (b"data_x\n_a 1\x002\n", "holds 1 control characters"),
        (b"data_x\r_a 1\r", "carriage return within a line"),
        ("data_x\n_a 1\n".encode("utf-16"), "holds 12 control characters"),
    ],
)
def test_damaged_files_are_refused_by_line(read, content, message):
    with pytest.raises(ValueError, match=r"in\.star") as caught:
        read(content)
    assert message in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_star(tmp_path / "none.star")


def mutated(content, generator):
    content = bytearray(content)
    marks = [b"'", b'"', b";", b"\n", b" ", b"#", b"_", b"data_", b"loop_\n", b"\n;"]
    for _ in range(generator.choice([1, 1, 2, 3])):
        start = generator.randrange(len(content) + 1)
        kind = generator.randrange(6)
        if kind == 0:
            content[start : start + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            del content[start : start + generator.randrange(1, 9)]
        elif kind == 2:
            content[start:start] = content[start : start + generator.randrange(1, 40)]
        elif kind == 3:
            del content[start:]
        elif kind == 4:
            content[start:start] = generator.choice(marks)
        else:
            content[start : start + 1] = generator.choice([*marks, b"\r", b"\t"])
    return bytes(content)


def test_mutations_are_read_right_or_refused(read, tmp_path):
    n_read = n_refused = n_both = 0
    for seed in range(400):
        content = mutated((RELION, CIF, WINDOWS)[seed % 3], random.Random(seed))
        try:
            star = read(content)
        except ValueError:
            n_refused += 1
            continue
        n_read += 1
        assert written(star, tmp_path) == content.removeprefix(b"\xef\xbb\xbf"), seed
        try:
            expected = gemmi_contents(content)
        except (ValueError, RuntimeError):
            pass
        else:
            n_both += 1
            assert contents(star) == expected, seed
        for block in star.blocks:
            for loop in block.loops:
                loop.set_column("sksubtomoClass", range(len(loop)))
                if len(loop.tags) > 2:
                    loop.remove_column(loop.tags[1])
        assert contents(read(written(star, tmp_path))) == contents(star), seed
    assert min(n_refused, n_both) > 80
    assert n_read > n_both


@pytest.mark.parametrize(
    "value",
    [
        *[
            "",
            " ",
            "a b",
            "a\tb",
            "it's",
            'a "b" c',
            "a' b",
            "'",
            '"',
            "''",
            "#1",
            "a#b",
        ],
        *["_x", "$x", ";", "[1]", ".", "?", "é ü"],
        *["data_x", "LOOP_", "stop_", "save_y", "global_"],
    ],
)
def test_quoted_values_come_back(value):
    token = quote(value)
    assert unquote(token) == value
    content = f"data_x\nloop_\n_a\n_b\n{token} {token}\n"
    block = cif.read_string(content)[0]
    assert [cif.as_string(v) for v in block[0].loop.values] == [value, value]


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\0", "a' \"", "\" '"])
def test_values_that_cannot_be_written(value):
    with pytest.raises(ValueError, match="column a: value"):
        format_values("a", [value])


def test_numbers_are_written_so_that_they_come_back():
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    tokens = format_values("a", values)
    np.testing.assert_array_equal(np.array(tokens, dtype=np.float32), values)
    assert format_values("a", [True, np.True_, None, np.int64(3), 0.1]) == [
        "1",
        "1",
        '""',
        "3",
        "0.1",
    ]


@pytest.mark.parametrize(
    ("tag", "values", "message"),
    [
        ("_a", [1, 2, 3], "tag '_a': expected printable ASCII"),
        ("a b", [1, 2, 3], "tag 'a b'"),
        ("", [1, 2, 3], "tag ''"),
        ("a", [1, 2], "column a: has 2 values; the loop at line 17"),
    ],
)
def test_set_column_refuses(read, tag, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(RELION).block("particles").loops[0].set_column(tag, values)


def test_column_that_is_not_there(read):
    with pytest.raises(ValueError, match=r"in\.star, line 6: the loop has no column x"):
        read(RELION).block("optics").loops[0].column("x")


def test_files_of_gemmi(read, tmp_path):
    document = cif.Document()
    document.add_new_block("general").set_pair("_rlnTomoSubTomosAre2DStacks", "0")
    block = document.add_new_block("particles")
    loop = block.init_loop("_", ["rlnTomoName", "note", "number"])
    for row in (["001", "a b", "1"], ["x", "multi\nline", "2"], ["", "'\" ", "3"]):
        loop.add_row([cif.quote(value) for value in row])
    document.write_file(str(tmp_path / "gemmi.star"))
    star = read_star(tmp_path / "gemmi.star")
    loop = star.block("particles").loops[0]
    assert loop.column("rlnTomoName") == ["001", "x", ""]
    assert loop.column("note") == ["a b", "multi\nline", "'\" "]
    assert loop.column("number") == ["1", "2", "3"]


MIXED = b"""data_p\r
\r
loop_\r
_a #1\r
_b #2\r
001  'x  y' # first\r
\r
# between\r
002\tplain\r
003\r
;two\r
lines\r
;\r
004  last"""


def test_selected_rows_keep_their_bytes(tmp_path):
    path = tmp_path / "s.star"
    path.write_bytes(MIXED)
    star = read_star(path)
    (loop,) = star.blocks[0].loops
    loop.select_rows([3, 0, 2])
    assert len(loop) == 3
    # In the order of the file, whatever that of the positions.
    assert loop.column("a") == ["001", "003", "004"]
    star.write(path)
    assert path.read_bytes() == MIXED.replace(b"002\tplain\r\n", b"")


def test_rows_are_selected_from_selected_and_changed_ones(tmp_path):
    path = tmp_path / "s.star"
    path.write_bytes(MIXED)
    star = read_star(path)
    copied = star.copy()
    (loop,) = copied.blocks[0].loops
    loop.set_column("a", [1, 2, 3, 4])
    loop.select_rows(np.array([False, True, True, True]))
    loop.set_column("c", ["x", "y", "z"])
    loop.select_rows([0, 2])
    assert loop.columns("abc") == {
        "a": ["2", "4"],
        "b": ["plain", "last"],
        "c": ["x", "z"],
    }
    copied.write(path)
    rows = path.read_bytes().partition(b"_c #3\r\n")[2]
    assert rows == b"\r\n# between\r\n2\tplain x\r\n4  last z"
    assert len(star.blocks[0].loops[0]) == 4
    loop.select_rows([])
    copied.write(path)
    assert len(read_star(path).blocks[0].loops[0]) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([4], "from 4 to 4; expected 0 to 3"),
        ([-1, 0], "from -1 to 0"),
        ([1, 1], "twice"),
        ([True, False], r"shape \(2,\)"),
        ([[0, 1]], r"shape \(1, 2\)"),
        ([0.0], "float64"),
    ],
)
def test_rows_that_are_not_there(tmp_path, rows, message):
    path = tmp_path / "s.star"
    path.write_bytes(MIXED)
    (loop,) = read_star(path).blocks[0].loops
    with pytest.raises(ValueError, match=f"rows: .*{message}"):
        loop.select_rows(rows)
    assert len(loop) == 4


def test_single_values_are_replaced_in_place(tmp_path):
    path = tmp_path / "s.star"
    contents = (
        b"data_g\r\n_a   1 # note\r\n_b 'x'\r\nloop_\r\n_c\r\n1\r\n\r\n"
        b"_t\r\n;long\r\n;\r\n"
        b"data_h\r\n_a 7\r\n"
    )
    path.write_bytes(contents)
    star = read_star(path)
    copied = star.copy()
    block = copied.block("g")
    block.set_pair("a", 0)
    block.set_pair("t", "two words")
    block.loops[0].set_column("c", [5])
    assert block.pairs == {"a": "0", "b": "x", "t": "two words"}
    copied.write(path)
    assert path.read_bytes() == (
        b"data_g\r\n_a   0 # note\r\n_b 'x'\r\nloop_\r\n_c\r\n5\r\n\r\n"
        b'_t "two words"\r\n'
        b"data_h\r\n_a 7\r\n"
    )
    star.write(path)
    assert path.read_bytes() == contents
    with pytest.raises(ValueError, match="data_g: has no single value c; it has a, b"):
        block.set_pair("c", 1)
    with pytest.raises(ValueError, match="line end"):
        block.set_pair("a", "1\n2")


def test_a_single_value_after_a_loop_that_lost_its_rows(tmp_path):
    path = tmp_path / "s.star"
    path.write_text("data_\nloop_\n_a\n_b\n1 2\n _c 3\n")
    star = read_star(path)
    star.blocks[0].loops[0].select_rows([])
    star.write(path)
    (block,) = read_star(path).blocks
    assert block.pairs == {"c": "3"}
    assert block.loops[0].columns("ab") == {"a": [], "b": []}
