"""The names of operators, shared by captured graphs, target profiles and quantized graphs."""

from __future__ import annotations

from enum import StrEnum


class Op(StrEnum):
    """An operator of a float or an integer network, by its field-standard name."""

    # The operators of trained Transformers that are found by capture.
    LAYER_NORM = "LayerNorm"
    RMS_NORM = "RMSNorm"
    GELU = "GELU"
    SILU = "SiLU"
    ATTENTION = "Attention"
    # The operators of both the float and the integer network.
    BATCH_NORM = "BatchNorm"
    LINEAR = "FullyConnected"
    EMBEDDING = "Gather"
    ONE_HOT = "OneHot"
    MATMUL = "MatMul"
    SOFTMAX = "Softmax"
    TABLE_SOFTMAX = "TableSoftmax"
    MEAN_MATMUL = "MeanMatMul"
    RELATIVE_MATMUL = "RelativeMatMul"
    TOKEN_MIX = "TokenMixing"
    ZERO_PAD = "ZeroPad"
    CROP = "Crop"
    MASK = "Minimum"
    ADD = "Add"
    MUL = "Mul"
    RELU = "ReLU"
    TANH = "Tanh"
    CLIP = "Clip"
    SIGMOID = "Sigmoid"
    LOOKUP = "Lookup"
    CONCAT = "Concat"
    RESHAPE = "Reshape"
    TRANSPOSE = "Transpose"
    SLICE = "Slice"
    SELECT = "Select"
    MEAN_POOL = "MeanPool"
    TOKEN_MEAN = "TokenMean"
    NORMALIZE = "L2Normalize"
    REQUANTIZE = "Requantize"
    WIDEN = "Widen"
    CONV = "Conv"
    MAX_POOL = "MaxPool"
    AVG_POOL = "AveragePool"
    TO_TOKENS = "ToTokens"
    PREPEND = "Prepend"
    FLATTEN = "Flatten"
    OTHER = "Other"
