"""Table 4: latency at FP32/FP16 on the paper's GPUs beside those measured; the forward pass of one 640 pixel image."""

from table1 import command

if __name__ == "__main__":
    command("table4", __doc__)
