"""What was chosen by measuring: with what it was compared, on one core of an EPYC (Zen 5: 48 KB L1, 1 MB L2) unless two
are named. bench/diary/ tells the whole story.
"""

LANES = 16  # rows whose coefficients are worked out side by side, and samples in a strip; 32: compiles twice as long
WIDE = 64  # lanes of the loops over a row: 3.9 ns for 16 classes; with 32 lanes 4.8
GROUP = 64  # rows worked on together: their coefficients cost 66 ns a row one by one, some 5 in a group

# rows.py
BLOCK = 2048  # classes read, raised and summed while they are in L1: 16 KB with their terms
AHEAD = 4096  # classes: so far ahead memory is asked for; without, 64 MB take 1.5 times as long
KEEP = 65536  # classes of a row whose terms are kept, 256 KB; beyond, L2 overflows and exp is cheaper than L3
GROUP_CLASSES = 16384  # classes of all rows in a group: 64 KB of terms
STREAM_BYTES = 32 << 20  # of logits: the gradient is written past the caches where they could not hold it anyway

# columns.py
SHORT = 160  # classes: rows with fewer are worked on side by side; at 128 60 ns a row either way, at 192 73 against 76
LONGEST_COLUMN = 16384  # classes: a tile of 16 samples has 1 MB there; longer columns are copied, row by row
ROW_BYTES = 8 << 10  # of a tile of rows: what is asked for ahead needs L1 too; 16 KB cost 5 % more at 100 classes
COLUMN_BYTES = 256 << 10  # of a tile of columns, in L2: at 1000 classes 6.8 ms, with 128 KB 8.9 (two cores)
TILE_LANES = 256  # samples in a tile at most: lines of 1 KB are read and written at 0.95 x copy, of 256 bytes at 1.1
STEP = 32  # classes whose terms pay for the way from memory of some classes of the next tile
CLASSES_AHEAD = 4  # in a column: more would meet in one set of a cache where strides are powers of two

# elementwise.py
LINE = 32  # lanes: a cache line of 16-bit numbers, so that any type can be streamed; 16 or 64 lanes are slower
RUN = 1024  # elements read, worked out and written while they are in L1; 512 and 2048 differ by less than the noise
ELEMENTS_AHEAD = 2048  # so far ahead memory is asked for; from 256 to 4096 within the noise

# threads.py, labels.py, __init__.py
ALONE = 256 << 10  # bytes of logits: two threads are faster from 125 KB on when hot, from 1 MB when they were asleep
PIECE = 16384  # labels or losses added up one after the other; sums of pieces are added in their order
PIECE_BYTES = 4 << 20  # of a soft target whose dtype has to be converted on the way; not measured
