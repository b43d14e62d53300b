# Finds the CUDA toolkit and enables its language. Included from the top: a language that is enabled in a
# subfolder does not know its standards when the build files are written.
set(LLMPLAN_HAVE_CUDA OFF)
if(LLMPLAN_CUDA STREQUAL "OFF")
  return()
endif()
find_package(CUDAToolkit 12 QUIET)
if(NOT CUDAToolkit_FOUND OR NOT CUDAToolkit_NVCC_EXECUTABLE)
  if(LLMPLAN_CUDA STREQUAL "ON")
    message(FATAL_ERROR "LLMPLAN_CUDA=ON, but no CUDA toolkit 12 or later was found. "
                        "Install it, or say where: -DCUDAToolkit_ROOT=/usr/local/cuda")
  endif()
  message(STATUS "CUDA: not found, building for CPUs only")
  return()
endif()
set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
enable_language(CUDA)
set(LLMPLAN_HAVE_CUDA ON)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know nvcc's flag
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
