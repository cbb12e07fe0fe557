# Sets EXACTNORM_HAS_MPI, from EXACTNORM_MPI and what is installed.
set(EXACTNORM_HAS_MPI OFF)
if(EXACTNORM_MPI STREQUAL "AUTO")
  find_package(MPI COMPONENTS CXX)
elseif(EXACTNORM_MPI)
  find_package(MPI REQUIRED COMPONENTS CXX)
endif()
if(EXACTNORM_MPI AND MPI_CXX_FOUND)
  set(EXACTNORM_HAS_MPI ON)
  message(STATUS "exactnorm::mpi is built, with MPI ${MPI_CXX_VERSION} of ${MPI_CXX_COMPILER}")
elseif(EXACTNORM_MPI)
  message(STATUS "No MPI is installed: exactnorm::mpi is not built, and the command runs in one process")
else()
  message(STATUS "EXACTNORM_MPI is OFF: exactnorm::mpi is not built, and the command runs in one process")
endif()

# Of tests with more ranks than processors, and as root where the tests run as root: what Open MPI wants to be told.
# What it leaves to the system when it ends is none of the sanitizers' business.
set(EXACTNORM_MPI_TEST_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
  ASAN_OPTIONS=detect_leaks=0)
