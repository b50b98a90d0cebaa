#!/usr/bin/env python3
"""Reads metrics in the text format of OpenMetrics as Prometheus' own library for Python does, strictly, and prints the samples as JSON.

Needs the environment that ../scripted/setup.sh makes.
"""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

samples = []
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        exemplar = sample.exemplar and {
            "labels": sample.exemplar.labels,
            "value": sample.exemplar.value,
            "timestamp": float(sample.exemplar.timestamp),
        }
        samples.append(
            {"type": family.type, "name": sample.name, "labels": sample.labels, "value": sample.value, "exemplar": exemplar}
        )
print(json.dumps(samples))
