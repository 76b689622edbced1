"""The fixed parts of the C files that `archnet.export.tvm_c` writes.

The types have the layout that TVM's C kernels expect (TVM 0.27: DLPack's DLTensor, and TVMFFIAny of its
foreign function interface).
"""

from __future__ import annotations

RUNTIME = """\
/* What the kernels that TVM writes expect, without TVM: types, work memory, and what an assertion calls. */
#ifndef ARCHNET_RUNTIME_H
#define ARCHNET_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#define TVM_DLL

typedef struct { int32_t device_type, device_id; } DLDevice;
typedef struct { uint8_t code, bits; uint16_t lanes; } DLDataType;
typedef struct {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
} DLTensor;

typedef struct {
  int32_t type_index;
  uint32_t padding;
  union { int64_t v_int64; double v_float64; void* v_ptr; };
} TVMFFIAny;

void* TVMBackendAllocWorkspace(int device, int id, uint64_t size, int code, int bits);
int TVMBackendFreeWorkspace(int device, int id, void* memory);
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count);

#endif
"""

HEADER = """\
/* {name}: an integer network, one sentence or picture at a time.
 *
{lines}
 *
 * Integers are in row-major order. scales: see graph/graph.json of the build.
 */
#ifndef ARCHNET_MODEL_H
#define ARCHNET_MODEL_H

#include <stdint.h>

/* Bytes of constants.bin, and of the memory that archnet_run works in; both begin at a multiple of 64. */
#define ARCHNET_CONSTANTS_BYTES {constants}
#define ARCHNET_WORKSPACE_BYTES {workspace}

/* Run the network. Returns 0, or -1 when a kernel refuses its arguments. */
int archnet_run(const uint8_t* constants, uint8_t* workspace, const void* const* inputs,
                void* const* outputs);

#endif
"""

MODEL = """\
#include "model.h"
#include "archnet_runtime.h"

#include <stdlib.h>

{declared}

typedef int32_t (*archnet_kernel)(void*, void*, int32_t, void*);

typedef struct {{
  void* data;
  uint8_t code, bits;
  int32_t rank;
  int64_t shape[6];
}} archnet_array;

#define ARCHNET_ARGUMENTS 16
#define ARCHNET_TENSOR 7  /* kTVMFFIDLTensorPtr */

static int archnet_call(archnet_kernel kernel, const archnet_array* arrays, int count) {{
  DLTensor tensors[ARCHNET_ARGUMENTS];
  TVMFFIAny arguments[ARCHNET_ARGUMENTS], result;
  int64_t shapes[ARCHNET_ARGUMENTS][6];
  for (int i = 0; i < count; ++i) {{
    for (int j = 0; j < 6; ++j) shapes[i][j] = arrays[i].shape[j];
    tensors[i].data = arrays[i].data;
    tensors[i].device.device_type = 1; /* kDLCPU */
    tensors[i].device.device_id = 0;
    tensors[i].ndim = arrays[i].rank;
    tensors[i].dtype.code = arrays[i].code;
    tensors[i].dtype.bits = arrays[i].bits;
    tensors[i].dtype.lanes = 1;
    tensors[i].shape = shapes[i];
    tensors[i].strides = NULL;
    tensors[i].byte_offset = 0;
    arguments[i].type_index = ARCHNET_TENSOR;
    arguments[i].padding = 0;
    arguments[i].v_ptr = &tensors[i];
  }}
  result.type_index = 0;
  result.padding = 0;
  result.v_int64 = 0;
  return kernel(NULL, arguments, count, &result);
}}

/* Weak: a system without malloc links its own. */
__attribute__((weak)) void* TVMBackendAllocWorkspace(int device, int id, uint64_t size, int code, int bits) {{
  (void)device, (void)id, (void)code, (void)bits;
  return malloc((size_t)size);
}}

__attribute__((weak)) int TVMBackendFreeWorkspace(int device, int id, void* memory) {{
  (void)device, (void)id;
  free(memory);
  return 0;
}}

__attribute__((weak)) void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts,
                                                             int32_t count) {{
  (void)kind, (void)parts, (void)count;
}}

int archnet_run(const uint8_t* constants, uint8_t* workspace, const void* const* inputs,
                void* const* outputs) {{
  (void)workspace;
{steps}
  return 0;
}}
"""
