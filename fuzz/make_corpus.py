#!/usr/bin/env python3
"""Writes the seed corpora of the readers of foreign bytes under fuzz/corpus/: tiny valid files of each
format, from which the fuzzer finds its way. They are kept in the repository."""
import base64
import json
import pathlib
import struct

FOLDER = pathlib.Path(__file__).resolve().parent / "corpus"


def write(target, name, data):
    path = FOLDER / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# ---- tables


def make_csv():
    write("csv", "plain", b"model,chips,ms\npalm-540b,64,36.2\npalm-62b,16,11\n")
    write("csv", "quotes", b'a,b\r\n"x, ""y""\nz",1\r\n,\r\n')


# ---- safetensors


def safetensors(header, data):
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def make_safetensors():
    def tensor(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    write("safetensors", "empty", safetensors({}, b""))
    write("safetensors", "two", safetensors({"__metadata__": {"format": "pt"}, "b": tensor("U8", [3], 4, 7),
                                             "a": tensor("F32", [], 0, 4)}, b"\0\0\x80?abc"))
    sizes = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1}
    header, at = {}, 0
    for dtype, size in sizes.items():
        header[dtype.lower()] = tensor(dtype, [2, 1], at, at + 2 * size)
        at += 2 * size
    write("safetensors", "dtypes", safetensors(header, bytes(at)))


# ---- GGUF

TYPES = {"u8": 0, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "u64": 10}


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def scalar(kind, value):
    if kind == "str":
        return text(value)
    return struct.pack("<" + {"u8": "B", "u32": "I", "i32": "i", "f32": "f", "bool": "B", "u64": "Q"}[kind], value)


def gguf(values, tensors=(), data=b"", version=3):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    for key, kind, value in values:
        out += text(key)
        if isinstance(value, list):
            out += struct.pack("<IIQ", 9, TYPES[kind], len(value)) + b"".join(scalar(kind, item) for item in value)
        else:
            out += struct.pack("<I", TYPES[kind]) + scalar(kind, value)
    for name, dims, kind, offset in tensors:
        out += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", dim) for dim in dims)
        out += struct.pack("<IQ", kind, offset)
    return out + bytes(-len(out) % 32) + data if tensors else out


def make_gguf():
    write("gguf", "values", gguf([("general.alignment", "u32", 32), ("a", "str", "text"), ("b", "f32", 0.5),
                                  ("c", "bool", 1), ("d", "u8", [1, 2, 3]), ("e", "str", ["x", ""])], version=2))
    llama = [("general.architecture", "str", "llama"), ("llama.embedding_length", "u32", 32),
             ("llama.feed_forward_length", "u32", 64), ("llama.block_count", "u32", 1),
             ("llama.attention.head_count", "u32", 2), ("llama.context_length", "u64", 16),
             ("llama.rope.freq_base", "f32", 1e4), ("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5)]
    tensors = [("token_embd.weight", [32, 2], 8, 0), ("blk.0.attn_q.weight", [32, 1], 2, 96),
               ("output_norm.weight", [4], 30, 128), ("x", [], 1, 160), ("output.weight", [2, 2], 0, 192)]
    write("gguf", "llama", gguf(llama, tensors, bytes(208)))


# ---- llama2.c


def llama2c(vocabulary):
    e, f, d, h, k, v, l = 4, 2, 1, 2, 1, abs(vocabulary), 2
    floats = v * e + d * (2 * e + 2 * e * e + 2 * e * e // h * k + 3 * e * f) + e + l * e // h
    floats += v * e if vocabulary < 0 else 0
    return struct.pack("<7i", e, f, d, h, k, vocabulary, l) + struct.pack("<f", 1.5) * floats


def make_llama2c():
    write("llama2c", "tied", llama2c(3))
    write("llama2c", "apart", llama2c(-3))


# ---- minGPT


def make_mingpt():
    config = {"n_layer": 1, "n_head": 1, "n_embd": 2, "vocab_size": 3, "block_size": 4, "model_type": "gpt-nano"}

    def tensor(*shape):
        count = 1
        for dim in shape:
            count *= dim
        data = base64.b64encode(struct.pack(f"<{count}f", *range(count))).decode()
        return {"shape": list(shape), "dtype": "torch.float32", "data": data}

    for name, shapes in {"one": [(1,)], "three": [(2, 3), (), (0,)]}.items():
        model = {"config": config} | {f"t{i}": tensor(*shape) for i, shape in enumerate(shapes)}
        write("mingpt", name, json.dumps(model).encode())


# ---- tokenizers: two bytes of text length, one of options, the file, the text


def tokenizer(name, data, sample, options=0):
    write("tokenizer", name, struct.pack("<HB", len(sample), options) + data + sample)


def byte_letters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = set(range(33, 127)) | set(range(0xA1, 0xAD)) | set(range(0xAE, 0x100))
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


def make_tokenizer():
    sample = "the other \u00fc\n  a\u2581b".encode() + b"\xff\0"
    names = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [b"<0x%02X>" % byte for byte in range(256)]
    pieces = [(name, 0) for name in names] + [(b" ", -1), (b"t", -1), (b"h", -1), (b"th", 2), (b" th", 1), (b"a", 0)]
    llama = struct.pack("<i", 16) + b"".join(struct.pack("<fi", score, len(name)) + name for name, score in pieces)
    tokenizer("llama2c", llama, sample, 1)
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "\u2581a", "<sep>"]
    spm = [("tokenizer.ggml.model", "str", "llama"), ("tokenizer.ggml.tokens", "str", tokens),
           ("tokenizer.ggml.scores", "f32", [0, 0, 0, 0, -1, -2, -3, 0]),
           ("tokenizer.ggml.token_type", "i32", [2, 3, 3, 6, 1, 1, 1, 4]),
           ("tokenizer.ggml.bos_token_id", "u32", 1), ("tokenizer.ggml.eos_token_id", "u32", 2),
           ("tokenizer.ggml.unknown_token_id", "u32", 0)]
    tokenizer("gguf-llama", gguf(spm), b"a a<sep>a</s>\n", 7)
    letters = byte_letters()
    bpe = [("tokenizer.ggml.model", "str", "gpt2"), ("tokenizer.ggml.tokens", "str", letters + ["th", "the", "\u0120the"]),
           ("tokenizer.ggml.merges", "str", ["t h", "th e", "\u0120 the"])]
    tokenizer("gguf-gpt2", gguf(bpe), sample)
    vocabulary = {letter: i for i, letter in enumerate(letters)} | {"th": 256, "\u0120th": 257, "<|endoftext|>": 258}
    file = {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}, "normalizer": None,
            "added_tokens": [{"id": 258, "content": "<|endoftext|>", "special": True}],
            "model": {"type": "BPE", "vocab": vocabulary, "merges": ["t h", ["\u0120", "th"]]}}
    tokenizer("hugging-face", json.dumps(file, ensure_ascii=False).encode(), sample + b"<|endoftext|>", 4)
    tokenizer("byte", b'{"type": "byte"}', sample, 3)
    small = {"type": "sentencepiece", "begin": 1, "unknown": 0, "wants_begin": True, "prefix_space": True,
             "pieces": [["?", 0, "unknown"], ["<s>", 0, "control"], ["<0x41>", 0, "byte"], [" ", 0, "normal"],
                        ["a", -1, "normal"], ["aa", -2, "normal"], ["b", 0, "user"], ["c", 0, "unused"]]}
    tokenizer("sentencepiece", json.dumps(small).encode(), b" aaa bA<s>", 5)
    # SentencePiece: pieces (text, score, kind), the trainer's type BPE, a normaliser that strips nothing
    def field(number, data):
        return bytes([number << 3 | 2, len(data)]) + data

    rows = [("?", 0, 2), ("<s>", 0, 3), ("<0x41>", 0, 6), ("\u2581", 0, 1), ("a", -1, 1), ("aa", -2, 1)]
    model = b"".join(field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
                     for text, score, kind in rows)
    tokenizer("model", model + field(2, b"\x18\x02") + field(3, b"\x20\x00"), b" aaa bA<s>", 5)


make_csv()
make_safetensors()
make_gguf()
make_llama2c()
make_mingpt()
make_tokenizer()
