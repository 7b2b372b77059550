"""Parts of the MedicalSAM3 panel. ``command`` and ``outcome`` need no Slicer, ``job`` and ``scene`` do."""
