import pytest

from sksubtomo.io import read_labels

NAMES = ["000001@a.mrc", "000002@a.mrc", "b, c.mrc", "001"]


@pytest.fixture
def labels(tmp_path):
    def read(content, names=NAMES, **options):
        path = tmp_path / "labels"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_labels(path, names, **options).tolist()

    return read


def test_labels_in_the_order_of_the_names(labels):
    text = "particle,label\n001,7\n000002@a.mrc,\n000001@a.mrc,ribosome\n"
    assert labels(text) == ["ribosome", None, None, "7"]
    assert labels("particle,label\n") == [None] * 4
    assert labels("particle,label\n", names=[]) == []


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbfparticle,label\r\n"b, c.mrc","20S ""core"""\r\n\r\n',
        b'score, label ,particle\n0.5, 20S "core" ,"b, c.mrc"\n\n,,\n',
        b'particle,label,comment\n"b, c.mrc","20S ""core""","two\nlines"',
    ],
)
def test_kinds_of_csv(labels, content):
    assert labels(content) == [None, None, '20S "core"', None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: has the columns []; expected 'particle' and 'label'"),
        (
            "particle;label\n001;7\n",
            "['particle;label']; expected 'particle' and 'label', each once, with",
        ),
        ("particle\tlabel\n", "line 1: has the columns ['particle\\tlabel']; expected"),
        (f"particle,label\n{'x' * 999},7\n", f"particle '{'x' * 77}...' is unknown"),
        (f"particle,label\n001,7\n001,{'x' * 999}\n", f"now '{'x' * 77}...'; exp"),
        ("particle,label,label\n", "line 1: has the columns"),
        ("particle,label\n001,7\n002,8\n", "line 3: the particle '002' is unknown"),
        ("particle,label\n001,7\n001,7\n", "'001' has a label since line 2, again"),
        ("particle,label\n001,\n\n001,8\n", "line 4: the particle '001' has a label "),
        ("particle,label\n001,7\n001,8\n", "since line 2, '7' and now '8'"),
        ("particle,label\n001\n", "line 2: has 1 values; expected 2"),
        ("particle,label\nb, c.mrc,7\n", "line 2: has 3 values; expected 2"),
        ('particle,label\n"001,7\n', "line 2: cannot be read as CSV"),
        (b"particle,label\n001,\xe9\n", "the byte at 19 is not UTF-8"),
        (b"particle,label\n001,\0" + b"x" * 200_000, "line 2: cannot be read as CSV"),
    ],
)
def test_damaged_files_are_refused_by_line(labels, content, message):
    with pytest.raises(ValueError, match="labels") as caught:
        labels(content)
    assert message in str(caught.value)


def test_names_of_several_particles(labels):
    names = ["a.mrc", "b.mrc", "a.mrc"]
    assert labels("particle,label\nb.mrc,1\n", names) == [None, "1", None]
    with pytest.raises(ValueError, match="line 2: the name 'a.mrc' belongs to 2 part"):
        labels("particle,label\na.mrc,1\n", names)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_labels(tmp_path / "none.csv", NAMES)
    with pytest.raises(ValueError, match="is a folder; expected a CSV or STAR file"):
        read_labels(tmp_path, NAMES)


def test_column_of_a_star_file(labels):
    text = (
        "data_particles\nloop_\n_rlnImageName\n_label\n"
        "001 'heat shock'\n000001@a.mrc \"\"\n'b, c.mrc' None\n000002@a.mrc .\n"
    )
    found = labels(text, labels_column="label")
    assert found == [None, None, None, "heat shock"]
    assert labels(text, labels_column="_label") == found
    with pytest.raises(ValueError, match="the loop has no column class"):
        labels(text, labels_column="class")
    with pytest.raises(ValueError, match="particle 1: the particle '001' is unknown"):
        labels(text, ["002"], labels_column="label")


def test_column_of_a_star_file_without_names(labels):
    text = "data_particles\nloop_\n_rlnClassNumber\n3\n?\n1\n1\n"
    assert labels(text, labels_column="rlnClassNumber") == ["3", None, "1", "1"]
    with pytest.raises(ValueError, match="has 4 particles and no rlnImageName; exp"):
        labels(text, NAMES[:2], labels_column="rlnClassNumber")
