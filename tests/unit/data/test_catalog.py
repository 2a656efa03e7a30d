"""Stores by name: import at first use, one import for concurrent processes, errors of unknown names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distmeta.core.errors import UserError
from distmeta.core.paths import data_home
from distmeta.data import catalog
from distmeta.data.catalog import import_store, list_stores, open_store
from distmeta.data.importers import ImportOptions
from distmeta.data.store import ClassStore


def test_home_follows_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_home() == home
    monkeypatch.delenv("DISTMETA_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert data_home() == Path("/home/someone/.cache/distmeta")


def test_stores_open_by_name_and_by_path(home: Path, image_folder: Path) -> None:
    assert list_stores() == []
    import_store("images", image_folder)
    assert list_stores() == ["pets"]
    assert open_store("pets").name == "pets"
    assert open_store(home / "stores" / "pets").name == "pets"


def test_a_benchmark_data_set_is_imported_at_first_use(
    home: Path, omniglot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"data 'omniglot' is not imported; .*`distmeta data import omniglot SRC`"):
        open_store("omniglot")
    monkeypatch.setenv("DISTMETA_DATA", str(omniglot_folder.parent))
    assert open_store("omniglot").num_examples == 6
    assert list_stores() == ["omniglot"]
    with pytest.raises(UserError, match=r"data 'fc100' is not imported; .*cifar100/"):
        open_store("fc100")


@pytest.mark.slow
def test_concurrent_processes_share_one_import(
    home: Path, omniglot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTMETA_DATA", str(omniglot_folder.parent))
    program = (
        "import logging; logging.basicConfig(level='INFO')\n"
        "from distmeta.data.catalog import open_store\n"
        "print(open_store('omniglot').images.sum())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert sum("importing omniglot" in err for _, err in outputs) == 1


def test_a_store_imported_while_waiting_for_the_lock_is_not_imported_again(
    home: Path, omniglot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process imports the store between the first check and taking the lock."""
    monkeypatch.setenv("DISTMETA_DATA", str(omniglot_folder.parent))
    find = catalog._raw_folder

    def find_late(name: str) -> Path:
        import_store("omniglot", find(name), options=ImportOptions(size=2))
        return find(name)

    monkeypatch.setattr(catalog, "_raw_folder", find_late)
    assert open_store("omniglot").shape == (1, 2, 2)


def test_unknown_names_suggest_the_closest_one(home: Path, image_folder: Path) -> None:
    import_store("images", image_folder)
    with pytest.raises(UserError, match=r"no data 'omniglt'; allowed: did you mean 'omniglot'\?"):
        open_store("omniglt")
    with pytest.raises(UserError, match=r"did you mean 'pets'\? \(banking77, .*, omniglot, .*pets, usps, usps_8x8\)"):
        open_store("pet")
    with pytest.raises(UserError, match=r"some/where: is not a class store; allowed: a folder with manifest.json"):
        open_store("some/where")
    with pytest.raises(UserError, match=r"data import: no importer 'omniglots'; allowed: did you mean 'omniglot'\?"):
        import_store("omniglots", image_folder)


def test_bad_import_requests_are_refused_before_reading(home: Path, image_folder: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file or folder; allowed: images: a folder"):
        import_store("images", image_folder / "nowhere")
    with pytest.raises(UserError, match=r"--name: store name '../up'"):
        import_store("images", image_folder, name="../up")
    with pytest.raises(
        UserError, match="importer 'images' does not support --text-column; allowed: --fractions, --grey"
    ):
        import_store("images", image_folder, options=ImportOptions(text_column="x"))
    with pytest.raises(UserError, match="--size: size 0; allowed: 1 to 4096 pixels"):
        import_store("images", image_folder, options=ImportOptions(size=0))
    import_store("images", image_folder)
    with pytest.raises(UserError, match="a store 'pets' exists already; allowed: --replace"):
        import_store("images", image_folder)
    assert import_store("images", image_folder, options=ImportOptions(grey=True), replace=True).shape == (1, 8, 8)


def test_importing_data_does_not_import_torch() -> None:
    modules = "distmeta.data.catalog, distmeta.data.inspect, distmeta.data.fetch"
    program = f"import sys, {modules}; sys.exit(not {{'torch', 'ray'}}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.omniglot
def test_the_real_omniglot(home: Path, data_dir: Path) -> None:
    store = import_store("omniglot", data_dir)
    assert (store.shape, store.num_examples, len(store.class_names)) == ((1, 28, 28), 32460, 1623)
    assert store.manifest.class_counts == [20] * 1623
    assert {split: len(store.split("omniglot", split)) for split in ("train", "val", "test")} == {
        "train": 1100,
        "val": 100,
        "test": 423,
    }
    assert len({name.split("/")[0] for name in store.class_names}) == 50
    assert 0.07 < store.images.mean() / 255 < 0.1  # mostly paper, which is 0
    assert isinstance(open_store("omniglot"), ClassStore)
    # Braille/character01 of drawers 3 and 19 are the only two equal drawings of the data set.
    dots = store.images[store.class_offsets[store.class_names.index("Braille/character01")] :][:20]
    np.testing.assert_array_equal(dots[2], dots[18])
