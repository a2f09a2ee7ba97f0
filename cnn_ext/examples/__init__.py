"""What shows the library and is no part of it: only the command line and the notebooks import it.

:mod:`~cnn_ext.examples.demo` trains LeNet-5 on our layers and on torch's,
:mod:`~cnn_ext.examples.proof` every reference network; :mod:`~cnn_ext.examples.exercises` checks the
answers in the notebooks.
"""
