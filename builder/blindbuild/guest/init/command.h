/* The path of the one program a workload starts lies in page 0: see launcher.c. */
#pragma once
#define COMMAND_ADDRESS 64UL
