#!/usr/bin/env python3
"""Prints the table of test_tokenizer_golden.c: for each text the number of ids and the FNV-1a hash of
the ids (i32, little-endian) that the reference implementations give.

GPT-2: Hugging Face tokenizers 0.23.3.  Llama 2: sentencepiece 0.2.3.
Usage: golden_ids.py DATA   (DATA/inference holds tokenizers/ and text/)"""
import pathlib
import struct
import sys

import sentencepiece
import tokenizers


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def main():
    data = pathlib.Path(sys.argv[1]) / "inference"
    gpt2 = tokenizers.Tokenizer.from_file(str(data / "tokenizers/gpt-2/tokenizer.json"))
    llama = sentencepiece.SentencePieceProcessor(model_file=str(data / "tokenizers/llama-2/tokenizer.model"))
    for path in sorted((data / "text").iterdir()):
        text = path.read_bytes().decode()
        row = [f'{{"{path.name}"']
        for ids in (gpt2.encode(text, add_special_tokens=False).ids, llama.encode(text)):
            row.append(f"{{{len(ids)}, 0x{fnv1a(struct.pack(f'<{len(ids)}i', *ids)):016x}}}")
        print("    " + ", ".join(row) + "},")


main()
