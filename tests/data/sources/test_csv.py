"""CSV files of paths, classes and splits, and what users are told of wrong ones."""

import os
from pathlib import Path

import pytest

from tests.conftest import fill
from tlearn.data.sources.base import Listing, Sample
from tlearn.data.sources.csv import CsvSource
from tlearn.errors import DataError


class TestCsv:
    def write(self, folder: Path, text: str, encoding: str = "utf-8") -> Path:
        fill(folder, "1.jpg", "2.jpg", "b/3.jpg")
        (folder / "labels.csv").write_text(text, encoding=encoding)
        return folder / "labels.csv"

    def refused(self, folder: Path, text: str) -> str:
        path = self.write(folder, text)
        with pytest.raises(DataError) as caught:
            CsvSource(path).listing()
        assert str(path) in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_paths_are_relative_to_the_file_and_labels_are_names(self, tmp_path, encoding):
        path = self.write(tmp_path, "path,label\r\nb/3.jpg,Kätzchen\r\n./1.jpg, 7\r\n\r\n", encoding)
        source = CsvSource(str(path))
        source.prepare()
        assert source.listing() == Listing(tmp_path, [Sample("1.jpg", "7"), Sample("b/3.jpg", "Kätzchen")])

    def test_the_root_can_be_another_folder(self, tmp_path):
        path = self.write(tmp_path, "path,label\n3.jpg,x\n")
        listing = CsvSource(path, tmp_path / "b").listing()
        assert listing.root == tmp_path / "b"
        assert listing.samples == [Sample("3.jpg", "x")]

    @pytest.mark.parametrize("name", ["a" * 300, "~nobody-of-this-name/labels.csv"])
    def test_a_name_that_no_system_takes_is_refused(self, name):
        with pytest.raises(DataError, match=f"cannot read data.csv={name}"):
            CsvSource(name).listing()

    def test_absolute_paths_are_kept(self, tmp_path):
        elsewhere = fill(tmp_path / "elsewhere", "4.jpg") / "4.jpg"
        path = self.write(tmp_path / "here", f"path,label\n{elsewhere},x\n")
        assert CsvSource(path).listing().samples == [Sample(str(elsewhere), "x")]

    def test_splits_go_by_all_their_names(self, tmp_path):
        path = self.write(tmp_path, "label,split,path\nx,train,1.jpg\nx,Valid,2.jpg\nx,test,b/3.jpg\n")
        assert [sample.split for sample in CsvSource(path).listing().samples] == ["train", "val", "test"]

    def test_an_empty_split_column_is_none(self, tmp_path):
        path = self.write(tmp_path, "path,label,split\n1.jpg,x,\n2.jpg,x,\n")
        assert [sample.split for sample in CsvSource(path).listing().samples] == [None, None]

    def test_other_columns_are_ignored_with_a_note(self, tmp_path):
        path = self.write(tmp_path, "path,label,width,\n1.jpg,x,40,\n")
        assert CsvSource(path).listing().notes == ["ignored columns of labels.csv: width"]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ("2.jpg,,train", "label is empty for 2.jpg"),
            (",x,train", "path is empty"),
            ("2.jpg,x,dev", "split is 'dev', and must be one of train, val, test, valid, validation"),
            ("2.jpg,x,", "split is '', and must be one of"),
            ("2.jpg", "label is empty for 2.jpg"),
            ("4.jpg,x,train", "no such file: "),
            ("b,x,train", "no such file: "),
            ("b/../1.jpg,x,val", "b/../1.jpg is on line 2 already"),
            ("2.jpg,x,y,train", "more fields than columns"),
        ],
    )
    def test_a_wrong_row_is_named_by_its_line(self, tmp_path, row, reason):
        message = self.refused(tmp_path, f"path,label,split\n1.jpg,x,train\n\n{row}\n")
        assert f"line 4: {reason}" in message
        assert "1 of 2 rows" in message

    def test_many_wrong_rows_are_capped(self, tmp_path):
        message = self.refused(tmp_path, "path,label\n" + "".join(f"no{number}.jpg,x\n" for number in range(50)))
        assert "50 of 50 rows" in message
        assert "line 21: " in message
        assert "line 22: " not in message
        assert "... and 30 more" in message

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "line 1: no column path, and none fits; expected path,label or path,label,split, found nothing"),
            ("path\n1.jpg\n", "line 1: no column label, and none fits"),
            ("path,label,label\n1.jpg,x,y\n", "two columns of one name"),
            ("path,label\n", "lists no images"),
            ("# of 2026\nfile,kind\n1.jpg,x\n", "line 1 is a comment: delete it"),
            ("#,file,kind\n1,1.jpg,x\n", "line 1 is a comment: delete it"),
            ("image,cat,dog\n1.jpg,0,1\n2.jpg,1,0\n", "a column of 0 and 1 for each class (cat, dog): write one"),
            ("image,cat,dog\n1.jpg,0.0,1.0\n2.jpg,1.0,0.0\n", "a column of 0 and 1 for each class (cat, dog)"),
        ],
    )
    def test_a_wrong_header_or_no_row_is_refused(self, tmp_path, text, reason):
        assert reason in self.refused(tmp_path, text)

    def test_a_missing_file_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"data\.csv=.*lost\.csv: No such file"):
            CsvSource(tmp_path / "lost.csv").listing()

    @pytest.mark.timeout(20)
    def test_a_pipe_is_no_picture(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert "no such file" in self.refused(tmp_path, "path,label\npipe.jpg,x\n")
