"""What each kind of operator costs: the one table from kind to cost function.

TFLite's builtin operators are in capitals, ONNX's and onnxruntime's own in camel case.
"""

from __future__ import annotations

from mnv4_deploy.profiles.costs.detection import (
    detection_postprocess,
    grid_sample,
    non_max_suppression,
    real_fft_2d,
)
from mnv4_deploy.profiles.costs.elementwise import (
    OPS_PER_OUTPUT,
    combine,
    gelu,
    local_response,
    per_input,
    per_output,
)
from mnv4_deploy.profiles.costs.products import (
    channels_last_taps,
    convolution,
    einsum,
    fully_connected,
    matrix_product,
    transposed_convolution_onnx,
    transposed_convolution_tflite,
)
from mnv4_deploy.profiles.costs.recurrent import (
    GRU_OPS,
    lstm,
    quantized_lstm,
    recurrent,
    rnn,
    sequence_lstm,
    sequence_rnn,
    svdf,
    two_way_lstm,
)
from mnv4_deploy.profiles.costs.windows import (
    average_pool,
    l2_pool,
    max_pool,
    reduction,
    resize,
)
from mnv4_deploy.profiles.costs.work import HOLDERS, CostFunction, kinds, nothing

_MOVERS = kinds("""
    CONCATENATION PACK UNPACK SPLIT SPLIT_V SLICE STRIDED_SLICE GATHER GATHER_ND
    EMBEDDING_LOOKUP PAD PADV2 MIRROR_PAD TRANSPOSE TILE BROADCAST_TO SPACE_TO_DEPTH
    DEPTH_TO_SPACE SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND REVERSE_V2 DYNAMIC_UPDATE_SLICE
    SCATTER_ND SHAPE RANK FILL ZEROS_LIKE ONE_HOT RESHAPE SQUEEZE EXPAND_DIMS DENSIFY
    Concat Split Slice Gather GatherND GatherElements ScatterND ScatterElements Pad Transpose
    Tile Expand SpaceToDepth DepthToSpace ReverseSequence Trilu OneHot Shape Size Constant
    ConstantOfShape EyeLike Reshape Flatten Squeeze Unsqueeze Identity Dropout QLinearConcat
    ReorderInput ReorderOutput
""")

COSTS: dict[str, CostFunction] = {
    **{kind: per_output(ops) for kind, ops in OPS_PER_OUTPUT.items()},
    **dict.fromkeys((*_MOVERS, *sorted(HOLDERS)), nothing),
    **dict.fromkeys(("CONV_2D", "Conv", "FusedConv", "NhwcFusedConv"), convolution(1)),
    "ConvInteger": convolution(1),
    "QLinearConv": convolution(3),
    **dict.fromkeys(("DEPTHWISE_CONV_2D", "CONV_3D"), channels_last_taps),
    "ConvTranspose": transposed_convolution_onnx,
    "TRANSPOSE_CONV": transposed_convolution_tflite(2),
    "Convolution2DTransposeBias": transposed_convolution_tflite(0),  # MediaPipe's own operator
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": matrix_product("adj_x"),
    **dict.fromkeys(("Gemm", "QGemm", "FusedGemm"), matrix_product("transA")),
    **dict.fromkeys(
        kinds("""MatMul QLinearMatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul
        MatMulNBits"""),
        matrix_product(),
    ),
    "FusedMatMul": matrix_product("transA"),
    "Einsum": einsum,
    "LSTM": lstm,
    "GRU": recurrent(GRU_OPS),
    "RNN": rnn,
    "DynamicQuantizeLSTM": quantized_lstm,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": sequence_lstm,
    "BIDIRECTIONAL_SEQUENCE_LSTM": two_way_lstm,
    "UNIDIRECTIONAL_SEQUENCE_RNN": sequence_rnn,
    "SVDF": svdf,
    "GridSample": grid_sample,
    "NonMaxSuppression": non_max_suppression,
    "TFLite_Detection_PostProcess": detection_postprocess,
    "RFFT2D": real_fft_2d,
    **dict.fromkeys(("GELU", "Gelu"), gelu),
    **dict.fromkeys(("ADD_N", "Sum", "Max", "Min"), combine()),
    "Mean": combine(last=1),
    **dict.fromkeys(("LRN", "LOCAL_RESPONSE_NORMALIZATION"), local_response),
    **dict.fromkeys(("AVERAGE_POOL_2D", "AveragePool", "QLinearAveragePool"), average_pool),
    **dict.fromkeys(("MAX_POOL_2D", "MaxPool", "NhwcMaxPool"), max_pool),
    "L2_POOL_2D": l2_pool,
    **dict.fromkeys(
        kinds("MEAN GlobalAveragePool QLinearGlobalAveragePool ReduceMean QLinearReduceMean"),
        reduction(per_output=1),
    ),
    **dict.fromkeys(
        kinds("""SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD REDUCE_ANY REDUCE_ALL ARG_MAX ARG_MIN
        GlobalMaxPool ReduceSum ReduceMax ReduceMin ReduceProd ArgMax ArgMin"""),
        reduction(),
    ),
    **dict.fromkeys(("ReduceSumSquare", "ReduceL1"), reduction(per_input=1)),
    "ReduceL2": reduction(per_input=1, per_output=1),
    "ReduceLogSum": reduction(per_output=1),
    "ReduceLogSumExp": reduction(per_input=1, per_output=1),
    **dict.fromkeys(("TOPK_V2", "WHERE", "TopK", "NonZero"), per_input(1)),
    **dict.fromkeys(("Resize", "Upsample"), resize("nearest")),
    "RESIZE_NEAREST_NEIGHBOR": resize("nearest"),
    "RESIZE_BILINEAR": resize("linear"),
}
