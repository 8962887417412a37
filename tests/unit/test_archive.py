"""What an archive may hold."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from bids_brainage.core.archive import unpack
from bids_brainage.core.errors import BundleError

SOUND = {"mine/model.json": b"{}", "mine/weights.tsv": b"1\n"}


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def make_tar(path: Path, members: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
        for entry in more:
            packed.addfile(entry)
    return path


MAKERS = {"zip": make_zip, "tar.gz": make_tar}


@pytest.fixture(params=MAKERS)
def pack(request, tmp_path):
    return lambda members: MAKERS[request.param](tmp_path / f"a.{request.param}", members)


def refused(source: Path, what: str, **more: int) -> None:
    target = source.parent / "target"
    with pytest.raises(BundleError, match=what) as error:
        unpack(source, target, "model.json", **more)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{source}: ")


@pytest.mark.parametrize("prefix", ["", "mine/", "./mine/", "a/b/"])
def test_the_folder_of_the_card_is_taken(pack, tmp_path, prefix):
    source = pack({f"{prefix}model.json": b"{}", f"{prefix}weights.tsv": b"1\n", "elsewhere/x": b"2"})
    unpack(source, tmp_path / "target", "model.json")
    assert {p.name: p.read_bytes() for p in (tmp_path / "target").iterdir()} == {
        "model.json": b"{}",
        "weights.tsv": b"1\n",
    }


@pytest.mark.parametrize("name", ["../evil", "mine/../../evil", "/tmp/evil", "mine\\..\\evil"])  # noqa: S108
def test_a_path_that_leaves_is_refused(pack, tmp_path, name):
    refused(pack(SOUND | {name: b"x"}), "leaves the bundle")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_of_a_tar_are_refused(tmp_path, kind):
    entry = tarfile.TarInfo("mine/link")
    entry.type, entry.linkname = kind, "/etc/passwd"
    refused(make_tar(tmp_path / "a.tar.gz", SOUND, entry), "link or no plain file")


def test_a_link_of_a_zip_is_refused(tmp_path):
    source = make_zip(tmp_path / "a.zip", SOUND)
    entry = zipfile.ZipInfo("mine/link")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(source, "a") as packed:
        packed.writestr(entry, "/etc/passwd")
    refused(source, "link or no plain file")


def test_a_link_of_a_folder_is_refused(tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    (source / "model.json").write_text("{}")
    (source / "weights.tsv").symlink_to("/etc/passwd")
    refused(source, "link or no plain file")


def test_a_folder_is_copied_flat(tmp_path):
    source = tmp_path / "mine"
    (source / "deeper").mkdir(parents=True)
    (source / "model.json").write_text("{}")
    unpack(source, tmp_path / "target", "model.json")
    assert [p.name for p in (tmp_path / "target").iterdir()] == ["model.json"]


def test_a_large_file_is_refused(pack):
    refused(pack(SOUND | {"mine/big": bytes(2000)}), "too large", largest=1000)


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    source = make_zip(tmp_path / "a.zip", SOUND | {"mine/big": bytes(20000)})
    content = source.read_bytes().replace((20000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    source.write_bytes(content)
    refused(source, "cannot be read|too large", largest=1000)


def test_the_same_name_twice_is_refused(pack, recwarn):
    refused(pack({"a/model.json": b"{}", "b/model.json": b"{}"}), "holds 2 model.json")
    refused(pack({"weights.tsv": b"1"}), "holds 0 model.json")


def test_a_member_twice_is_refused(tmp_path):
    source = make_tar(tmp_path / "a.tar.gz", SOUND, tarfile.TarInfo("mine/model.json"))
    refused(source, "one name twice")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_archive_is_refused(pack, share):
    source = pack({"mine/model.json": b"{}", "mine/weights.tsv": bytes(range(256)) * 64})
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * share)])
    refused(source, "cannot be read")


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.zip").write_text("hello")
    refused(tmp_path / "a.zip", "cannot be read")
    refused(tmp_path / "absent.zip", "cannot be read")
