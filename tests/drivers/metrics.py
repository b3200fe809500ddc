"""Reads the text of /metrics on standard input with Prometheus' own parser, checks what the parser lets pass, and
prints each sample as JSON: {"name{label=value,…}": value}."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("", "_total"), "gauge": ("",)}


def check_histogram(name, series):
    """Buckets are cumulative and end with all that were counted."""
    buckets = sorted((float(le), n) for le, n in series["buckets"])
    counts = [n for _, n in buckets]
    assert counts == sorted(counts), (name, buckets)
    assert buckets[-1][0] == float("inf") and buckets[-1][1] == series["count"], (name, buckets, series)
    assert series["sum"] >= 0, name
    assert len({le for le, _ in buckets}) == len(buckets), name


def main():
    samples, families = {}, set()
    for family in text_string_to_metric_families(sys.stdin.read()):
        assert family.name not in families, f"{family.name} twice"
        families.add(family.name)
        assert family.documentation and family.type in SUFFIXES, (family.name, family.type)
        histograms = {}
        for sample in family.samples:
            assert sample.name in {family.name + suffix for suffix in SUFFIXES[family.type]}, sample.name
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}"
            assert key not in samples, f"{key} twice"
            samples[key] = sample.value
            if family.type != "gauge":
                assert sample.value >= 0, key
            if family.type == "histogram":
                series = histograms.setdefault(sample.labels["database"], {"buckets": []})
                if sample.name.endswith("_bucket"):
                    series["buckets"].append((sample.labels["le"], sample.value))
                else:
                    series[sample.name.rsplit("_", 1)[1]] = sample.value
        for series in histograms.values():
            check_histogram(family.name, series)
    json.dump(samples, sys.stdout)


main()
