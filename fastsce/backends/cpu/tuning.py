"""What is tuned, and what it was compared with, if it was: one core of an EPYC (Zen 5: 48 KB L1, 1 MB L2) unless two,
or another CPU, are named. bench/diary/ tells the whole story.
"""

from fastsce.backends.cpu.vectors import from_amd, wide_registers

# AVX-512, and L1 and L2 of 48 KB and 2 MB, as Intel has them. Zen 4 has 32 KB and 1 MB.
WIDE = wide_registers() and not from_amd()

# Classes in a step of a row, rows whose coefficients go side by side, samples in a strip (and transpose.py turns 16
# rows). 32 in a strip: 10 classes −8 %, 100 classes +20 %; 64 in a step: 64 classes twice as long, long rows as long
# (Zen 4).
LANES = 16
# A cache line of 16-bit numbers, so that any type can be streamed; elementwise.py takes longer with 16 or 64 (Zen 5).
LINE = 32
PAGE = 4096  # bytes
GROUP = 64  # samples of a tile or a band worked on together; not compared. Facts have places for so many

# few.py
# Bytes of a row in the working precision: 20 MB of 16 float32 classes take 0.86 of the time, 10 0.88, with 256-bit
# registers 5 0.86, 8 0.96, 10 1.15; float64 5 0.90, 10 1.01 (two cores, Granite Rapids). On Zen 4 16 0.85, 10 0.79.
# Where rows lie side by side (images of 64 MB, Zen 4) 14 classes take 0.9, 16 1.0; half as many of 16 bits (8 0.9, 10
# 1.08, 16 1.37) or with a Hessian (8 0.85 to 1.04, 12 1.07, 16 1.12); where classes begin differently in cache lines,
# so that they are not streamed, a quarter of that (2 to 4 0.74 to 1.0, 6 to 8 0.93 to 1.3).
FEW_BYTES = 64 if wide_registers() else 32
# Rows in a sheet, and in one of up to TALL classes: 2 and 3 take 0.91 and 0.85 of the time that they take with 16, 5
# 0.96 to 1.02; 64 rows of 2 take 0.95 to 1.0. With 256-bit registers 3 take 1.08 with 32 (20 and 128 MB, same Xeon). On
# Zen 4 2 and 3 take 0.97 with 32, 5 1.05, 8 1.23.
SHEET, TALL_SHEET, TALL = 16, 32 if wide_registers() else 16, 4
ROWS_AHEAD = 96  # memory is asked for so far ahead: 8 and 10 classes of 128 MB take 1.06 of the time with 256

# rows.py
# Classes read, raised and summed while float32 ones are in L1: 4096 to 131072 take 0.91 to 0.97 of the time with 2048
# (256 MB, two cores, Zen 4).
BLOCK = 4096
# Classes of rows of which a group is gone through together: in cache 600 take 0.77 of the time that they take alone,
# 1024 0.82, 1500 0.93, 2048 1.0 (Zen 4). Where they are written behind, 1024 take 0.85 to 0.92 (64 and 256 MB, two
# cores, Zen 3).
TOGETHER = 2048
# The same where lse is given: 100 to 512 classes take 0.8 to 0.9 of the time, 1000 1.0 to 1.1 (128 MB, two cores).
TOGETHER_SAVED = 512
# Of a streamed row's bytes: from here on it is written while others are read. With AVX-512 float32 200 classes take 1.0
# of the time, 255 0.94, 301 0.87, 512 0.85; float64 100 1.1, 150 0.87, 256 0.75; with AVX2 float32 333 0.93, 512 1.02,
# 601 0.88, 700 0.81 (64 MB, two cores, Granite Rapids), on Zen 3 512 1.08, 700 1.06 before edges were put together. On
# Zen 4, where they shared no lines, float32 384 1.07, 512 1.0, 640 0.89, float64 256 1.07, 512 0.96; since then 257
# 0.95 to 1.02, 300 0.91, 333 0.9, 512 0.85, 601 0.78, float64 150 1.08, 200 1.04, 256 0.95 (64 and 256 MB).
BEHIND_BYTES = 1000 if WIDE else 1200 if wide_registers() else 2560
# The same of 16-bit numbers. On Zen 4 bfloat16 640, 768, 800 classes 1.03 to 1.06, 900 0.98, 1000 and 1024 0.93 to 1.0,
# 1280 1.01, 1501 0.92 to 0.95, 2047 0.92, float16 900 0.96 to 1.0, 1501 and 2047 0.89 to 0.96; with AVX2 code 900 to
# 1501 0.97 to 1.04 (64 MB, two cores). Elsewhere not measured since the last line of a row is asked for: there, rows
# that go together are not written behind.
BEHIND_BYTES_16 = 1800 if wide_registers() and from_amd() else 2 * TOGETHER + 2
# Of what is streamed: bytes ahead of what is read, in any page, that it must not lie within: 1023 classes, × copy, 64
# 1.96, 192 1.5, 320 1.4, from 576 on 1.3 (64 MB, two cores, Zen 4).
CLEAR_BYTES = 256
# Rows of so many bytes that share no line are streamed without being put together first: float32 64 classes 1.14 of the
# time, 128 0.96, 256 0.88.
DESK_BYTES = 512
# Of rows of Hessians and of log_softmax that share lines: shorter ones are not streamed. Not streamed, Hessians of 255,
# 512, 1001, 2001, 4001 classes take 0.46, 0.68, 0.94, 1.25, 1.3 of the time, log_softmax 0.45, 1.1, 0.96, 1.1, 1.2;
# rows with lines of their own would take 1.2 to 1.4 (64 MB, two cores, Zen 4).
SHARED_BYTES = 6000
# Classes: so far ahead memory is asked for; 4096 take 1.0 to 1.07 times as long, 8192 1.02 to 1.08 (256 MB, two cores,
# Zen 4).
AHEAD = 2048
# Terms of a row that wait for it to be written: 70000 to 262144 bfloat16 classes take 7.1 ns for 16, and 11.3 if they
# are worked out twice (float32 9.3, 9.8); from 2M classes on it is the other way round (two cores, Zen 4).
KEEP_BYTES = 3 << 20
GROUP_CLASSES = 16384  # classes of all rows in a group, of which there are up to LANES: 64 KB of terms; not compared
# The same where rows go together, nothing is written that caches hold, and registers are wide, so that it is no great
# loss that fewer settle at once: the loss alone of 512 to 2000 classes takes 0.92 of the time (with 3072 up to 1.2 if
# pages have 4 KB), float16 1024 0.9, smoothing 0.97, soft targets 1.04; written to the caches up to 1.1. If they are
# written behind others, of which there is then as much: 333 to 1024 0.92 to 0.96, with 4096 0.01 to 0.04 more (64 and
# 256 MB, two cores, Granite Rapids). Where registers are not wide 1024 take 1.15 (Zen 3), and 1.06 on Zen 4.
GROUP_CLASSES_FAR = 4096 if WIDE else GROUP_CLASSES
GROUP_CLASSES_BEHIND = 3072 if WIDE else GROUP_CLASSES
# Of longer rows that share lines and are put together before they are streamed (where lse is given; of those that are
# gone through together all are): 150 classes 12.8 → 11.1 ms, 333 11.4 → 10.3, 500 10.1 → 10.4 (64 MB, one core, Zen 4).
DESK_CLASSES = 2048

# columns.py
# Of a contiguous row of which nothing but a gradient is written: shorter ones are not streamed. Streamed, and put
# together first, they would take 0.94 to 1.12 of the time at 16 to 256 MB and 2 to 24 classes; 32 classes take 0.83 to
# 1.01 (two cores, Zen 4).
STREAM_ROW_BYTES = 112
# Rows of fewer float32 classes, of half as many float64 ones, are worked on side by side: 82 take 0.77 of the time, 100
# 0.82, 110 1.03, 119 0.98, 128 1.11, bfloat16 100 0.84, 120 0.90, 150 0.99, float64 50 0.86, 59 0.91, 64 1.13; of 100
# all options 0.81, a softcap 0.78, the Hessian 0.60, the loss alone 0.96 (64 MB, two cores, Zen 3).
SHORT = 120
SHORT_APART = 320  # the same where the classes of a row do not lie side by side, and would be copied one by one
LONGEST_COLUMN = 16384  # classes: a tile of 16 samples has 1 MB there; longer columns are copied, row by row
ROW_BYTES = 8 << 10  # of a tile of rows: what is asked for ahead needs L1 too; 4 and 16 KB: within the noise
# Of a tile of columns, in L2: at 1000 classes 6.8 ms, with 128 KB 8.9 (two cores). With 512 KB, not 256, 250 MB of 1000
# classes take 0.90 of the time, 4000 0.66, float64 1000 0.83, 500 1.0 (two cores, Granite Rapids: 2 MB L2), on Zen 4
# 1000 1.04 to 1.09.
COLUMN_BYTES = (512 if WIDE else 256) << 10
# Of a tile of no more than GROUP samples, which are sent together: 4000 classes take 0.81 of the time, 8192 0.79, 12001
# 0.65 with twice as much; beyond that, tiles of LANES samples, for a thread has room for two to four (the same Xeon).
# On Zen 4 3000 take 0.7 with 2 MB, not 512 KB, 4000 0.64, 8192 0.8.
GROUP_COLUMN_BYTES = (2048 if wide_registers() else 512) << 10
# Tiles in a part, if they share lines and each thread has so many: a line is whole if one thread has both. Of the time
# with 8, 333 and 1001 classes take 0.97 with 16, 1.05 with 4, 1001 1.2 with 1. If they share none, 500 and 1000 classes
# take 1.1 of the time that they take with 1 (256 MB, the same Xeon).
TILES = 16
TILE_LANES = 256  # samples in a tile at most: lines of 1 KB are read and written at 0.95 x copy, of 256 bytes at 1.1
STEP = 32  # classes whose terms are added up before they come to those before: a sum of few float64; not compared
CLASSES_AHEAD = 4  # in columns and bands: a bare copy through tiles of 21 classes 5.7 ms, with 1 ahead 6.5 (two cores)

# bands.py
# Of a sample's classes, in the working precision: with more, and with no more. Classes first of 200 take 0.9 of the
# time that tiles take, 333 1.0, with smoothing 1.13, 500 0.85, 4000 0.75 to 1.0, 5001 0.85, 8000 1.0, 8001 1.2 to 1.4
# (250 MB, two cores, Zen 4).
BANDED_BYTES, LONGEST_BAND_BYTES = 1536, 24 << 10
# Samples in a band, and what it takes up at most, if it is no single group: with 4 KB pages 1000 classes take 1.2 of
# the time with 128, 1.05 with 512; 4000, in pages of either size, with 128 0.9 to 1.25 of that with 64, with 256 1.0 to
# 1.5. Where bands share lines, two groups at least: 3000 classes take 0.6 to 0.7 of the time with 128, not 64.
BAND_LANES, BAND_BYTES = 256, 1 << 20
BLOCK_CLASSES = 32  # with 8 500 and 1000 classes take 1.25 of the time, with 16 1.07, with 24 and 48 1.0
BANDS = 16  # in a part: 1000 classes take 1.0 with 64, 0.95 with 128, 1.0 to 1.2 with 1

# vjp.py
# Rows of fewer classes: side by side 8 take 0.2 of the time, 16 0.5, 20 0.73, 24 0.7, 31 1.05 to 1.1, 32 1.15, 48 1.4
# (20 and 64 MB, two cores, Zen 4).
SHORT_VJP = 28

# elementwise.py
RUN = 1024  # elements read, worked out and written while they are in L1; 512 take 1.1 to 1.25, 2048 as long (Zen 4)
ELEMENTS_AHEAD = 2048  # so far ahead L2 is asked for; 1024 and 4096 as fast, L1 256 to 1024 ahead 1.05 to 1.3

# threads.py, __init__.py
# Of logits from which on results are written past the caches, which could not hold both anyway: at 16 to 31 MB 0.93 to
# 1.4 times as fast, 0.85 to 1.35 if the gradient is read next; at 12 MB mostly a loss (two cores, Zen 4, 32 MB L3).
STREAM_BYTES = 16 << 20
ALONE = 256 << 10  # bytes of logits: two threads are faster from 125 KB on when hot, from 1 MB when they were asleep
ROUND = 16 << 20  # bytes of logits a thread works on until Ctrl-C is seen, 3 to 80 ms; one round is 1 to 4 % faster
# Of logits in a part; a thread that is done takes another. Halves of a batch instead: float32, 256 and 1024 classes of
# 256 MB take 1.2 and 1.15 of the time, 4096 of 64 MB 1.2, 100 of 20 MB 1.15, at 2 to 8 MB 0.95 to 1.25; parts of 256 KB
# 1.06, 1.15, 1.0; of 1 MB 1.0 to 1.05; of 2 MB 1.08, 1.02, 1.2 (two cores, Zen 3).
PART = 512 << 10
COPIES = 8  # times as many rounds where rows are copied number by number, which may come from a page each
PIECE = 16384  # labels or losses added up one after the other (labels.py, few.py); sums of pieces come in their order
