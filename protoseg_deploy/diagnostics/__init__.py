"""What this machine can do: probes of hardware, limits and libraries, for ``protoseg doctor``.

A probe takes what it looks at as arguments: the root of the file system, the environment, the answers of libraries.
Libraries are loaded in processes of their own, which may crash or hang.
"""

from protoseg_deploy.diagnostics.examining import examine, scrubber
from protoseg_deploy.diagnostics.findings import Finding, Section, works

__all__ = ["Finding", "Section", "examine", "scrubber", "works"]
