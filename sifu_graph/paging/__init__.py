"""Pages of edge parameters between store, spill file, memory and device, within a budget.

`Pool` is what batches and walks use. A pool has two objects:

`BufferPool`
    The frames: their arrays, a `PageTable` (which page is in which frame, and which one is evicted next), and a
    backing, where pages come from and go to.
`RowPager`
    Makes the pages of rows ready in the frames, part by part or row by row.

The two pools differ in their backing, and in how they copy single edges:

`EdgePool`
    In memory. Backing: `PageSource` (the store, or generated values); under a budget `SpilledPages` (the spill file,
    else a `PageSource`).
`DevicePool`
    On a device. Backing: `HostPages`, which copies pages of an `EdgePool`.
"""
