"""An OCI image layout: what is in it, how umoci and skopeo fill it, and how a bundle is unpacked from it."""
