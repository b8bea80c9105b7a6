"""How many FLOP/s a card can do at most, by its name: what MFU is measured against.

In: the name that the driver gives. Out: dense bf16 matrix FLOP/s, or nan. Refuses to guess: a name
that is not in the table, or that several different cards share, has no peak, and its MFU is nan.
"""

from __future__ import annotations

import math
import re

# Dense, accumulating in float32: half of what a data sheet quotes "with sparsity". Sources: for
# data-centre cards NVIDIA's data sheets, for GeForce and RTX A6000 the appendices of its GA102, Ada
# and RTX Blackwell papers, for Instinct AMD's product pages.
PEAK_FLOPS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H200 NVL": 835.5e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835.5e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "A10": 125e12,
    "A10G": 70e12,
    "A6000": 154.8e12,
    "L40S": 362e12,
    "L40": 181e12,
    "RTX PRO 6000 Blackwell Workstation Edition": 503.8e12,
    "L4": 121e12,
    "RTX 5090": 209.5e12,
    "RTX 5080": 112.6e12,
    "RTX 5070 Ti": 87.9e12,
    "RTX 5070": 61.7e12,
    "RTX 4090": 165.2e12,
    "RTX 4080": 97.5e12,
    "RTX 4070 Ti": 80.2e12,
    "RTX 4070": 58.3e12,
    "RTX 3090 Ti": 80e12,
    "RTX 3090": 71e12,
    "RTX 3080 Ti": 68.2e12,
    "RTX 3070": 40.6e12,
    "RTX 3060": 25.5e12,
    "MI355X": 2517e12,
    "MI325X": 1307e12,
    "MI300X": 1307e12,
    "MI250X": 191.5e12,  # of one of its two dies, which is what torch calls a device
}
# Shares its name with a faster one: a laptop's, or a slice of a card. (A GeForce 3080 is missing
# above because two cards are sold as one.)
ANOTHER_PART = re.compile(r"\b(laptop|mobile|max-q|mig|grid)\b|-\d+[ABCQ]\b", re.IGNORECASE)
SUFFIX = r"(?!\s+(Ti|SUPER|D|GRE|Ada|NVL|Laptop)\b)"  # makes another card of the one before it


def peak_flops(name: str) -> float:
    """Peak dense bf16 FLOP/s of a card by its name, nan when unknown."""
    if ANOTHER_PART.search(name):
        return math.nan
    for known in sorted(PEAK_FLOPS, key=len, reverse=True):
        if re.search(rf"\b{re.escape(known)}\b{SUFFIX}", name, re.IGNORECASE):
            return PEAK_FLOPS[known]
    return math.nan
