import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sksubtomo.datasets import fetch_structure, fetching, load_structure

ENTRY = gzip.compress(
    b"""data_1ABC
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_seq_id
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.auth_seq_id
_atom_site.auth_asym_id
_atom_site.pdbx_PDB_model_num
ATOM 1 C CA . GLY A 1 0.0 0.0 0.0 1.0 20.0 1 A 1
ATOM 2 S SG . CYS A 2 0.0 0.0 9.0 1.0 20.0 2 A 1
""",
    mtime=0,
)
HASH = hashlib.sha256(ENTRY).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """Serve what is put into `answers`, and list what was asked for."""
    answers, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, body, length = answers.get(self.path, (404, b"", 0))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{httpd.server_port}/{{group}}/{{id}}.cif.gz"
        monkeypatch.setattr(fetching, "_URL", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

        def answer(path, body, status=200, length=None):
            answers[path] = (status, body, len(body) if length is None else length)

        answer.asked = asked
        yield answer
        httpd.shutdown()
        thread.join()


def files_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_downloads_once_and_verifies(server, tmp_path):
    server("/ab/1abc.cif.gz", ENTRY)
    folder = tmp_path / "new" / "cache"
    path = fetch_structure("1ABC", folder=folder)
    assert path == folder / "1abc.cif.gz"
    assert path.read_bytes() == ENTRY
    assert files_in(folder) == ["1abc.cif.gz", "1abc.cif.gz.sha256"]
    recorded = path.with_name("1abc.cif.gz.sha256").read_text("utf-8")
    assert recorded == f"{HASH}  1abc.cif.gz\n"
    assert fetch_structure("1abc", folder=folder, sha256=HASH.upper()) == path
    assert server.asked == ["/ab/1abc.cif.gz"]
    structure = load_structure(path)
    assert (structure.name, round(structure.mass)) == ("1abc", 44)


def test_cache_folder(server, tmp_path, monkeypatch):
    server("/ab/1abc.cif.gz", ENTRY)
    monkeypatch.setenv("SKSUBTOMO_CACHE", str(tmp_path / "chosen"))
    assert fetch_structure("1abc").parent == tmp_path / "chosen"
    monkeypatch.delenv("SKSUBTOMO_CACHE")
    monkeypatch.setattr(fetching.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert fetch_structure("1abc").parent == tmp_path / "user" / "sksubtomo"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>busy</html>",
        ENTRY[:-9],
        # Without the time: all processes that test have to name the test alike.
        gzip.compress(b"data_1ABC\n_cell.length_a 1\n", mtime=0),
        gzip.compress(b"<html>busy</html>", mtime=0),
        b"",
    ],
)
def test_what_is_no_structure_stays_out(server, tmp_path, body):
    server("/ab/1abc.cif.gz", body)
    with pytest.raises(ValueError, match=r"1abc\.cif\.gz: (is no|holds no)"):
        fetch_structure("1abc", folder=tmp_path)
    assert files_in(tmp_path) == []


def test_broken_off(server, tmp_path):
    server("/ab/1abc.cif.gz", ENTRY, length=len(ENTRY) + 5)
    with pytest.raises(OSError, match=r"broke off|cannot be reached"):
        fetch_structure("1abc", folder=tmp_path)
    assert files_in(tmp_path) == []


def test_too_large(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_MAX_BYTES", 99)
    server("/ab/1abc.cif.gz", ENTRY)
    with pytest.raises(ValueError, match="more than 99 bytes"):
        fetch_structure("1abc", folder=tmp_path)
    assert files_in(tmp_path) == []


def test_unknown_entry(server, tmp_path):
    with pytest.raises(ValueError, match=r"9zzz\.cif\.gz: there is no such entry"):
        fetch_structure("9zzz", folder=tmp_path)
    assert files_in(tmp_path) == []


def test_server_error(server, tmp_path):
    server("/ab/1abc.cif.gz", b"", status=503)
    with pytest.raises(OSError, match=r"HTTP 503.*try again later.*by hand"):
        fetch_structure("1abc", folder=tmp_path)


def test_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # Nobody listens on the discard port.
    monkeypatch.setattr(fetching, "_URL", "http://127.0.0.1:9/{group}/{id}.cif.gz")
    with pytest.raises(
        OSError, match=r"127\.0\.0\.1:9/ab/1abc\.cif\.gz: cannot be reached.*by hand"
    ):
        fetch_structure("1abc", folder=tmp_path)
    assert files_in(tmp_path) == []


def test_other_hash_than_pinned(server, tmp_path):
    server("/ab/1abc.cif.gz", ENTRY)
    wrong = "0" * 64
    with pytest.raises(ValueError, match=f"SHA-256 {HASH}; expected 0000"):
        fetch_structure("1abc", folder=tmp_path, sha256=wrong)
    assert files_in(tmp_path) == []
    fetch_structure("1abc", folder=tmp_path)
    with pytest.raises(ValueError, match=f"SHA-256 {HASH}; expected 0000"):
        fetch_structure("1abc", folder=tmp_path, sha256=wrong)


def test_changed_in_the_cache(server, tmp_path):
    server("/ab/1abc.cif.gz", ENTRY)
    path = fetch_structure("1abc", folder=tmp_path)
    path.write_bytes(ENTRY[:-1] + b"?")
    with pytest.raises(ValueError, match=r"1abc\.cif\.gz: has changed.*delete both"):
        fetch_structure("1abc", folder=tmp_path)
    assert len(server.asked) == 1


def test_file_put_there_by_hand(server, tmp_path):
    path = tmp_path / "1abc.cif.gz"
    path.write_bytes(b"by mistake")
    with pytest.raises(ValueError, match=r"1abc\.cif\.gz: is no gzipped mmCIF"):
        fetch_structure("1abc", folder=tmp_path)
    path.write_bytes(ENTRY)
    assert fetch_structure("1abc", folder=tmp_path) == path
    assert HASH in path.with_name("1abc.cif.gz.sha256").read_text("utf-8")
    assert server.asked == []


@pytest.mark.parametrize("pdb_id", ["", "abcd", "1ab", "1abcd", "../1", "1a/c", 1234])
def test_what_is_no_id(tmp_path, pdb_id):
    with pytest.raises(ValueError, match="pdb_id="):
        fetch_structure(pdb_id, folder=tmp_path)


def test_what_is_no_hash(tmp_path):
    with pytest.raises(ValueError, match="sha256='abc'"):
        fetch_structure("1abc", folder=tmp_path, sha256="abc")
