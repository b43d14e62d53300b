# The kernels are compiled for several instruction sets and linked into one program. A function that a
# header defines inline has one weak symbol per object file, of which the linker keeps any one: if the
# AVX-512 one, the program dies on a CPU without AVX-512, far from any kernel. So the objects of an
# instruction set may define no weak symbol, and no global one outside their own namespace.
#
#   cmake -DNM=nm -DISA=avx512 -DOBJECTS=a.o|b.o -P isa_symbols.cmake
string(REPLACE "|" ";" OBJECTS "${OBJECTS}")
list(LENGTH OBJECTS count)
if(count LESS 2)
  message(FATAL_ERROR "no object files to look at: '${OBJECTS}'")
endif()
set(own 0)
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} -C --defined-only ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE ";" "," symbols "${symbols}")
  string(REPLACE "\n" ";" symbols "${symbols}")
  foreach(symbol IN LISTS symbols)
    if(symbol MATCHES "^[0-9a-f]* [VWu] ")
      message(SEND_ERROR "${object}\n  defines a weak symbol: ${symbol}")
    elseif(symbol MATCHES "^[0-9a-f]* [A-Z] ")
      if(symbol MATCHES " llmplan::cpu::${ISA}::")
        math(EXPR own "${own} + 1")
      else()
        message(SEND_ERROR "${object}\n  defines a global symbol outside llmplan::cpu::${ISA}: ${symbol}")
      endif()
    endif()
  endforeach()
endforeach()
if(own LESS 10)
  message(FATAL_ERROR "found only ${own} kernels: is nm's output read correctly?")
endif()
