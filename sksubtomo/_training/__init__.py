"""The torch side of ``fit``, ``transform`` and ``predict``.

The estimators call ``pretrain``, ``fine_tune`` and the functions of
``inference`` with NumPy arrays and parameter objects; nothing here knows of
scikit-learn's estimator interface.
"""
