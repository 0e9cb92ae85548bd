"""Pictures to features: tlearn beside the usual evaluation loop, and beside what the machine can do at most.

python benchmarks/extraction.py --data FOLDER --weights mobilenet_v2.pth [--parts extract,decode,body,gpu]

FOLDER holds hymenoptera/ and cat_dog/. `extract` compares whole passes over the files of one of them, without the
imports: Pillow, torchvision's transforms on floats and batches of 64 on one side, tlearn without a cache on the other.
`decode` (one thread), `body` (one thread) and `gpu` are shares of limits that are measured in the same process, see
limits.py. Every figure is from a process of its own.
"""

import argparse
from functools import partial

from measure import Job, Record, add_pictures, baseline, choices, interleave, limit, parser, read_once

PARTS = ("extract", "decode", "body", "gpu")


def main(options: argparse.Namespace) -> None:
    record = Record(options)
    pictures = [] if options.image_set is None else ["--pictures", str(options.image_set)]
    rounds = ["--rounds", str(options.rounds)]
    jobs: dict[str, Job] = {}
    if "extract" in options.parts:
        read_once(options.data / options.set)
        common = ["--data", options.data / options.set, "--weights", options.weights]
        few = [] if options.image_set is None else ["--max-batches", str(max(1, options.image_set // 64))]
        jobs["evaluation loop"] = lambda seed: baseline("evaluation", [*common, *few, "--seed", str(seed)])
        for kind in options.precision:
            jobs[f"tlearn {kind}"] = partial(limit, ["extract", *common, "--precision", kind, *pictures])
    if "decode" in options.parts:
        for data in ("cat_dog", "hymenoptera"):
            jobs[f"decode {data}"] = partial(limit, ["decode", "--data", options.data / data, *rounds, *pictures])
    kinds = ["--precision", ",".join(options.precision)]
    if "body" in options.parts:
        jobs["body"] = partial(limit, ["body", "--backbones", options.backbones, *kinds, *rounds])
    if "gpu" in options.parts and record.gpus:
        names = ["--backbones", options.gpu_backbones, "--batch", "64"]
        jobs["gpu"] = partial(limit, ["gpu", "--data", options.data / "cat_dog", *names, *kinds, *rounds, *pictures])
    interleave(record, jobs, options.pairs)
    record.say()
    record.show("pictures/s", "rate")
    for kind in ("fp32", "bf16"):
        record.ratio(f"tlearn {kind}", "evaluation loop", "rate")
    for name in [name for name in jobs if name.split()[0] in ("decode", "body", "gpu")]:
        record.say()
        for key in [key for key in record.rows.get(name, [{}])[0] if key not in ("pair", "seconds")]:
            record.say(f"{name}: {key:<40} {record.spread(name, key)}")


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    add_pictures(made)
    made.add_argument("--parts", type=choices(PARTS), default=PARTS, help=f"of {','.join(PARTS)}")
    made.add_argument("--set", default="cat_dog", choices=("cat_dog", "hymenoptera"), help="for extract")
    made.add_argument("--precision", type=choices(("fp32", "bf16")), default=["fp32", "bf16"], help="of fp32,bf16")
    made.add_argument("--backbones", default="resnet18,densenet121,mobilenet_v2", help="for body")
    made.add_argument("--gpu-backbones", default="resnet50,densenet121,vit_b_16", help="for gpu")
    made.add_argument("--rounds", type=int, default=5, help="inside each process of decode, body and gpu")
    made.add_argument("--pictures", type=int, help="as many only, to see whether it all runs")
    return made.parse_args()


if __name__ == "__main__":
    main(arguments())
