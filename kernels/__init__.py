"""Triton kernels of fastsync, imported as `fastsync.kernels`.

One file a kernel, each with its launcher; `fastsync.ops` owns the schemas, gradients and eager references and is the
only caller. Importing this package needs no Triton and no GPU: the files that need Triton import it themselves.

Inside this folder imports are relative. The folder would otherwise be reachable under two names (`kernels` from the
repository's root, `fastsync.kernels` when installed), and an op would be registered twice.
"""
