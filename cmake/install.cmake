# What `cmake --install` puts where: the library, its headers, a CMake package, a pkg-config file and the command.
option(EXACTNORM_INSTALL "Have rules to install" ${PROJECT_IS_TOP_LEVEL})
if(NOT EXACTNORM_INSTALL)
  return()
endif()
include(CMakePackageConfigHelpers)

set_target_properties(exactnorm PROPERTIES VERSION ${PROJECT_VERSION}
                      SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
install(TARGETS exactnorm EXPORT exactnormTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/exactnorm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h" PATTERN mpi.h EXCLUDE)
if(TARGET exactnorm_mpi)
  # Apart from the library's own: who does not ask for the component need not have MPI.
  set_target_properties(exactnorm_mpi PROPERTIES VERSION ${PROJECT_VERSION}
                        SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} INSTALL_RPATH "$ORIGIN")
  install(TARGETS exactnorm_mpi EXPORT exactnormMpiTargets
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
          RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
          INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(FILES ${PROJECT_SOURCE_DIR}/include/exactnorm/mpi.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/exactnorm)
endif()
if(TARGET exactnorm_cli)
  file(RELATIVE_PATH library_from_command ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  set_target_properties(exactnorm_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${library_from_command}")
  install(TARGETS exactnorm_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# A static library leaves it to its users to link what it needs itself; a shared one has done so.
get_target_property(library_type exactnorm TYPE)
if(library_type STREQUAL "STATIC_LIBRARY")
  set(EXACTNORM_IS_STATIC ON)
  set(EXACTNORM_PC_REQUIRES_PRIVATE libhwy)
  set(EXACTNORM_PC_LIBS_PRIVATE "${OpenMP_CXX_FLAGS}")
else()
  set(EXACTNORM_IS_STATIC OFF)
  set(EXACTNORM_PC_REQUIRES_PRIVATE "")
  set(EXACTNORM_PC_LIBS_PRIVATE "")
endif()

set(package_directory ${CMAKE_INSTALL_LIBDIR}/cmake/exactnorm)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/exactnormConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/package/exactnormConfig.cmake
                              INSTALL_DESTINATION ${package_directory} NO_SET_AND_CHECK_MACRO)
# Before 1.0, each minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/package/exactnormConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/package/exactnormConfig.cmake
              ${PROJECT_BINARY_DIR}/package/exactnormConfigVersion.cmake
        DESTINATION ${package_directory})
install(EXPORT exactnormTargets NAMESPACE exactnorm:: DESTINATION ${package_directory})
if(TARGET exactnorm_mpi)
  install(EXPORT exactnormMpiTargets NAMESPACE exactnorm:: DESTINATION ${package_directory})
endif()

# Relative to the file itself, so that `cmake --install --prefix` and moved directories work.
file(RELATIVE_PATH prefix_from_pc ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" prefix_from_pc "${prefix_from_pc}")
set(EXACTNORM_PC_PREFIX "\${pcfiledir}/${prefix_from_pc}")
foreach(kind LIBDIR INCLUDEDIR)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${kind}}")
    set(EXACTNORM_PC_${kind} "${CMAKE_INSTALL_${kind}}")
  else()
    set(EXACTNORM_PC_${kind} "\${prefix}/${CMAKE_INSTALL_${kind}}")
  endif()
endforeach()
configure_file(${PROJECT_SOURCE_DIR}/cmake/exactnorm.pc.in ${PROJECT_BINARY_DIR}/package/exactnorm.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/package/exactnorm.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
