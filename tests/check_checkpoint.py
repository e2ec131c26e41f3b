#!/usr/bin/env python3
"""Checks a checkpoint file with h5py: layout, types, attributes, hashes.

usage: check_checkpoint.py FILE

Derives the tensors from the model text by itself. Exit status 0: everything is as README.md says;
1: something is not, told on standard error; 77: h5py is not installed.
"""
import math
import re
import sys

try:
    import h5py
except ImportError:
    print("check_checkpoint.py: h5py is not installed", file=sys.stderr)
    sys.exit(77)
try:
    import xxhash
except ImportError:
    xxhash = None

MAX_CHUNK_BYTES = 1 << 20
FACTS = {
    "format_version": int,
    "dtrain_version": str,
    "model_text": str,
    "parameters": int,
    "step": int,
    "epoch": float,
    "data_fingerprint": str,
    "weights_hash": str,
}
# One option of each kind.
OPTIONS = {"batch-size": int, "lr": float, "model": str, "shuffle": str, "lr-scaling": str}


def expect(good, message):
    if not good:
        sys.exit(f"check_checkpoint.py: {message}")


def attribute(owner, name, kind):
    """The attribute's value, after a look at how it is stored."""
    expect(name in owner.attrs, f"{owner.name} has no attribute {name}")
    attribute_id = owner.attrs.get_id(name)
    dtype = attribute_id.dtype
    expect(attribute_id.shape == (), f"attribute {name} is not one value")
    if kind is int:
        expect(dtype == "<i8", f"attribute {name} is {dtype}, not int64")
    elif kind is float:
        expect(dtype == "<f8", f"attribute {name} is {dtype}, not float64")
    else:
        info = h5py.check_string_dtype(dtype)
        expect(info is not None, f"attribute {name} is {dtype}, not a text")
        expect(info.encoding == "utf-8", f"attribute {name} is in {info.encoding}")
        expect(info.length is not None, f"attribute {name} is of variable length")
        return owner.attrs[name].decode("utf-8")
    return kind(owner.attrs[name])


def tensors(text):
    """Name and shape of each tensor of a model, in canonical order."""
    numbers = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        kind = words.pop(0)
        numbers[kind] = numbers.get(kind, 0) + 1
        name = f"{kind}{numbers[kind]}"
        stride = int(words[words.index("stride") + 1]) if "stride" in words else None
        if kind == "input":
            h, w, c = map(int, words)
        elif kind == "conv":
            out, (kh, kw) = int(words[0]), map(int, words[1].split("x"))
            yield f"{name}/kernel", (kh, kw, c, out)
            yield f"{name}/bias", (out,)
            lost = (kh - 1, kw - 1) if "valid" in words else (0, 0)
            h, w = (math.ceil((size - cut) / (stride or 1)) for size, cut in zip((h, w), lost))
            c = out
        elif kind == "maxpool":
            window = int(words[0])
            h, w = ((size - window) // (stride or window) + 1 for size in (h, w))
        elif kind == "dense":
            out = int(words[0])
            yield f"{name}/kernel", (h * w * c, out)
            yield f"{name}/bias", (out,)
            h, w, c = 1, 1, out


def check_tensor(data, shape):
    name = data.name
    expect(data.dtype == "<f4", f"{name} is {data.dtype}, not little-endian float32")
    expect(data.shape == shape, f"{name} has shape {data.shape}, the model needs {shape}")
    expect(data.chunks is not None, f"{name} is not chunked")
    chunk_bytes = 4 * math.prod(data.chunks)
    expect(chunk_bytes <= MAX_CHUNK_BYTES, f"{name} has chunks of {chunk_bytes} bytes")
    expect(data.fletcher32, f"{name} has no fletcher32")
    expect(data.compression is None, f"{name} is compressed")
    digest = attribute(data, "xxh64", str)
    expect(re.fullmatch("[0-9a-f]{16}", digest), f"xxh64 of {name} is {digest!r}")
    if xxhash is not None:
        found = xxhash.xxh64_hexdigest(data[...].tobytes())
        expect(found == digest, f"xxh64 of {name} is {digest}, its values hash to {found}")
    return data[...]


def check(path):
    with h5py.File(path, "r") as file:
        facts = {name: attribute(file, name, kind) for name, kind in FACTS.items()}
        options = {name: attribute(file, name, kind) for name, kind in OPTIONS.items()}
        expect(facts["format_version"] == 1, f"format {facts['format_version']}")
        for name in ("data_fingerprint", "weights_hash"):
            expect(re.fullmatch("[0-9a-f]{16}", facts[name]), f"{name} is {facts[name]!r}")
        expect(set(file) == {"weights", "optimizer"}, f"groups are {sorted(file)}")
        expect(set(file["optimizer"]) == {"momentum"}, f"slots are {sorted(file['optimizer'])}")
        wanted = dict(tensors(facts["model_text"]))
        values = []
        for root in ("weights", "optimizer/momentum"):
            found = []
            file[root].visititems(
                lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
            )
            expect(set(found) == set(wanted), f"{root} holds {found}, the model {list(wanted)}")
            values.append([check_tensor(file[f"{root}/{name}"], wanted[name]) for name in wanted])
        count = sum(array.size for array in values[0])
        expect(count == facts["parameters"], f"parameters is {facts['parameters']}, not {count}")
        if xxhash is not None:
            state = xxhash.xxh64()
            for array in values[0]:
                state.update(array.tobytes())
            expect(
                state.hexdigest() == facts["weights_hash"],
                f"weights_hash is {facts['weights_hash']}, the weights hash to {state.hexdigest()}",
            )
        facts.pop("model_text")
        for name, value in {**facts, **options}.items():
            print(f"{name}: {value}")
        for name, shape in wanted.items():
            print(f"{name}: {shape}")
        print("hashes: " + ("good" if xxhash else "not checked, there is no module xxhash"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    check(sys.argv[1])
