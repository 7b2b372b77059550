"""Parts of the MedicalSAM3 module. None but ``logic`` knows the others' order of work; none needs the panel."""
