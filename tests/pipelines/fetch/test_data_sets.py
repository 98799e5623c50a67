import hashlib
import io
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.fetch.__main__ import main
from pipelines.fetch.archives import ArchiveError, obtain, unpack
from pipelines.fetch.data_sets import fetch, resolve
from tests.pipelines.layouts.trees import good, write_bananas, write_voc


@pytest.fixture
def server():
    """Serve `files` by name, with ranges; `cut` bytes and the connection ends; `asked` keeps the Range headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = web.files.get(self.path[1:])
            web.asked.append(self.headers.get("Range"))
            if content is None:
                self.send_error(404)
                return
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : web.cut])

        def log_message(self, *_: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.files, web.asked, web.cut = {}, [], None
    web.address = f"http://127.0.0.1:{web.server_port}"
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    yield web
    web.shutdown()
    web.server_close()


def zipped(folder: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    return stream.getvalue()


def tarred(folder: Path, kind: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=kind) as file:
        file.add(folder, ".")
    return stream.getvalue()


def sha(content: bytes) -> str:
    return f"sha256={hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("name", ["a%20b", "a b"])
def test_verified_download_is_not_repeated(tmp_path, server, name):
    server.files["a%20b.zip"] = b"content"
    source = f"{server.address}/{name}.zip#{sha(b'content')}"
    path = obtain(source, tmp_path)
    assert (path.name, path.read_bytes()) == ("a b.zip", b"content")
    assert obtain(source, tmp_path) == path
    assert len(server.asked) == 1


def test_interrupted_download_is_continued(tmp_path, server):
    content = bytes(range(256)) * 40
    server.files["a.zip"], server.cut = content, 1000
    source = f"{server.address}/a.zip#{sha(content)}"
    with pytest.raises(ArchiveError, match="the same command goes on"):
        obtain(source, tmp_path)
    assert not (tmp_path / "a.zip").exists()
    server.cut = None
    assert obtain(source, tmp_path).read_bytes() == content
    assert server.asked == [None, "bytes=1000-"]


def test_whole_but_unverified_download_is_taken(tmp_path, server):
    server.files["a.zip"] = b"content"
    (tmp_path / "a.zip.partial").write_bytes(b"content")
    assert obtain(f"{server.address}/a.zip#{sha(b'content')}", tmp_path).read_bytes() == b"content"


def test_without_a_digest_nothing_is_continued(tmp_path, server):
    server.files["a.zip"] = b"new content"
    (tmp_path / "a.zip.partial").write_bytes(b"old")
    assert obtain(f"{server.address}/a.zip", tmp_path).read_bytes() == b"new content"


def test_other_digest_is_refused_and_forgotten(tmp_path, server):
    server.files["a.zip"] = b"forged"
    with pytest.raises(ArchiveError, match=r"its sha256 is .* was expected"):
        obtain(f"{server.address}/a.zip#{sha(b'content')}", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_addresses_that_fail_say_why(tmp_path, server):
    with pytest.raises(ArchiveError, match=r"none\.zip cannot be fetched: there is no such file$"):
        obtain(f"{server.address}/none.zip", tmp_path)
    with pytest.raises(ArchiveError, match=r"none\.zip cannot be fetched: Cannot connect .*$"):
        obtain("http://127.0.0.1:9/none.zip", tmp_path)
    with pytest.raises(ArchiveError, match="no such file"):
        obtain(str(tmp_path / "none.zip"), tmp_path)
    (tmp_path / "own.zip").write_bytes(b"")
    with pytest.raises(ArchiveError, match="write #sha256="):
        obtain(f"{tmp_path}/own.zip#crc=1", tmp_path)


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "a/../../outside.txt", "..\\outside.txt"])
def test_zip_cannot_leave_its_folder(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr(name, "x")
    with pytest.raises(ArchiveError, match="outside"):
        unpack(tmp_path / "bad.zip", tmp_path / "in")
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("kind", ["name", "link"])
def test_tar_cannot_leave_its_folder(tmp_path, kind):
    member = tarfile.TarInfo("../outside.txt" if kind == "name" else "link")
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "../../etc"
    with tarfile.open(tmp_path / "bad.tar", "w") as file:
        file.addfile(member)
    with pytest.raises(ArchiveError, match="outside"):
        unpack(tmp_path / "bad.tar", tmp_path / "in")
    assert list((tmp_path / "in").iterdir()) == []


def test_what_is_no_archive_or_half_of_one_is_refused(tmp_path):
    (tmp_path / "page.zip").write_text("<html>sign in</html>")
    with pytest.raises(ArchiveError, match="neither a zip nor a tar"):
        unpack(tmp_path / "page.zip", tmp_path / "in")
    write_voc(tmp_path / "voc", good(3))
    (tmp_path / "half.tgz").write_bytes(tarred(tmp_path / "voc")[:-200])
    with pytest.raises(ArchiveError, match="cannot be unpacked"):
        unpack(tmp_path / "half.tgz", tmp_path / "in")


def damaged_zip(path, damage):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if damage == "data" else zipfile.ZIP_STORED) as file:
        file.writestr("a.txt", "bananas " * 100)
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    if damage == "encrypted":
        content[6] |= 1
        content[central + 8] |= 1
    elif damage == "method":
        content[8:10] = content[central + 10 : central + 12] = (98).to_bytes(2, "little")  # PPMd
    else:  # a flipped bit in what is stored or compressed
        content[40] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("encrypted", "'a.txt' is encrypted; unpack it yourself"),
        ("method", "cannot be unpacked: That compression method is not supported"),
        ("stored", "cannot be unpacked: Bad CRC-32 for file 'a.txt'"),
        ("data", "cannot be unpacked: "),
    ],
)
def test_zips_that_cannot_be_read_are_one_line(tmp_path, damage, message):
    damaged_zip(tmp_path / "a.zip", damage)
    with pytest.raises(ArchiveError, match=re.escape(message)) as refused:
        unpack(tmp_path / "a.zip", tmp_path / "in")
    assert "\n" not in str(refused.value)


def test_zip_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a", b"0" * 2000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ArchiveError, match="are free"):
        unpack(tmp_path / "a.zip", tmp_path / "in")


def test_bananas_replace_tracked_data(tmp_path, server):
    write_bananas(tmp_path / "src" / "banana-detection", ["0.png,0,3,4,10,12"], ["0.png,0,3,4,10,12"])
    server.files["b.zip"] = zipped(tmp_path / "src")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    (tmp_path / "data.dvc").touch()
    count = fetch("bananas", [f"{server.address}/b.zip"], tmp_path / "data", tmp_path / "downloads")
    assert count == 2
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["banana-detection"]


def test_several_archives_make_one_tree(tmp_path, server):
    for name in ("2007", "2012"):
        write_voc(tmp_path / name / "VOCdevkit" / f"VOC{name}", good(2, name), {"trainval": [f"{name}000"]})
        server.files[f"{name}.tar"] = tarred(tmp_path / name)
    sources = [f"{server.address}/{name}.tar" for name in ("2007", "2012")]
    assert fetch("voc", sources, tmp_path / "data", tmp_path / "downloads") == 4
    assert sorted(path.name for path in (tmp_path / "data" / "VOCdevkit").iterdir()) == ["VOC2007", "VOC2012"]


def test_failure_leaves_data_alone(tmp_path, server):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    with pytest.raises(ArchiveError, match="is not tracked by DVC"):
        fetch("voc", [f"{server.address}/a.zip"], tmp_path / "data", tmp_path / "downloads")
    (tmp_path / "data.dvc").touch()
    write_bananas(tmp_path / "src", ["0.png,0,3,4,10,12"])
    server.files["b.zip"] = zipped(tmp_path / "src")
    with pytest.raises(ArchiveError, match="no photographs in the layout of voc"):
        fetch("voc", [f"{server.address}/b.zip"], tmp_path / "data", tmp_path / "downloads")
    assert (tmp_path / "data" / "old").exists()


@pytest.mark.parametrize("source", ["s3://bucket/VOCdevkit", "."])
def test_what_dvc_imports_is_left_to_dvc(tmp_path, source):
    with pytest.raises(ArchiveError, match="dvc import-url"):
        fetch("voc", [source], tmp_path / "data", tmp_path / "downloads")


def test_known_addresses_come_with_their_digests():
    (bananas,) = resolve("bananas", [])
    assert bananas.endswith("banana-detection.zip#sha1=5de26c8fce5ccdea9f91267273464dc968d20d72")
    assert resolve("bananas", ["http://h/b.zip"]) == ["http://h/b.zip#sha1=5de26c8fce5ccdea9f91267273464dc968d20d72"]
    assert resolve("bananas", ["b.zip#sha256=00"]) == ["b.zip#sha256=00"]
    test, own = resolve("voc", ["2007-test", "http://h/own.zip"])
    assert test.endswith("VOCtest_06-Nov-2007.tar#md5=b6e924de25625d8de591ea690078ad9f")
    assert own == "http://h/own.zip"


def test_errors_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bananas(tmp_path / "src", ["0.png,0,3,4,10,12"])
    (tmp_path / "own.zip").write_bytes(zipped(tmp_path / "src"))
    (tmp_path / "artifacts").write_text("mine")  # where a folder is due
    monkeypatch.setattr("sys.argv", ["fetch", "voc", "own.zip"])
    with pytest.raises(SystemExit, match=r"^fetch: artifacts.*: .*; a file is where a folder is due; move it away$"):
        main()
    (tmp_path / "artifacts").unlink()
    with pytest.raises(SystemExit, match=r"^fetch: own\.zip: no photographs in the layout of voc$"):
        main()
    assert not (tmp_path / "artifacts" / "downloads" / "unpacked").exists()


@pytest.mark.slow
def test_dvc_owns_what_was_fetched(tmp_path, server, monkeypatch):
    def dvc(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    monkeypatch.chdir(tmp_path)
    dvc("init", "--no-scm", "--quiet")
    write_voc(tmp_path / "first", good(1))
    dvc("import-url", "first", "data")
    write_voc(tmp_path / "second", good(3, "q"))
    server.files["own.tar"] = tarred(tmp_path / "second")
    monkeypatch.setattr("sys.argv", ["fetch", "voc", f"{server.address}/own.tar"])
    main()
    assert "deps" not in (tmp_path / "data.dvc").read_text()
    assert "up to date" in dvc("status")
    assert sorted(path.stem for path in (tmp_path / "data" / "JPEGImages").iterdir()) == ["q000", "q001", "q002"]
