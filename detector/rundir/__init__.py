"""A run's directory: its files, and how a run is found. What stands in a row: `detector.rows`."""

from detector.rundir.directory import RunDir as RunDir
