# legobase: a PostgreSQL extension (legobase.so) and a memory node (memnode/legobase-memnode).
#
#	make				  build both
#	make install		  install both
#	make FAULT_POINTS=1	  build them with fault points, for the tests
#	make installcheck	  run the SQL tests against a running server
#
# scripts/check does all of this, and everything else, by itself.

EXTENSION = legobase
DATA = sql/legobase--1.0.sql
MODULE_big = legobase

COMMON_NAMES = lb_status lb_page lb_uri lb_net lb_wire lb_wire_flush lb_wire_reload lb_wire_rdma lb_stream lb_data_plane lb_data_plane_shm \
	lb_data_plane_socket lb_data_plane_tcp lb_fault lb_histogram
SERVER_NAMES = buffer_agent checkpoint_sync comm_buffer control_record ddl_hooks embedded_node instance kernel_cache legobase local_pool \
	node_attach node_client node_control node_flush node_link node_loss node_push node_rdma node_reload node_table page_directory page_dirty page_fence page_fetch page_forget page_push page_reload placement pool_gate pool_reload pool_size read_ahead redo_compare redo_skip \
	remote_smgr server_table settings slab_size slab_table smgr_table stats storage_fence tier1_checkpointer views wal_reach warm_list warm_up write_back
include src/rdma/Makefile.inc
OBJS = $(SERVER_NAMES:%=src/%.o) $(COMMON_NAMES:%=src/common/%.o) $(RDMA_NAMES:%=src/rdma/%.o) $(RDMA_PLANE_NAMES:%=src/rdma/%.o)

REGRESS = $(patsubst sql/%.sql,%,$(filter-out $(DATA),$(sort $(wildcard sql/*.sql))))
REGRESS_OPTS = --inputdir=.

PG_CPPFLAGS = -Isrc -Isrc/common -Isrc/rdma
PG_CFLAGS = -std=gnu11 -Werror -Wno-declaration-after-statement -MMD -MP
SHLIB_LINK = -lxxhash -ldl $(RDMA_LIBS) -Wl,--version-script=src/exports.map
EXTRA_CLEAN = $(OBJS:.o=.d)

ifdef FAULT_POINTS
PG_CPPFLAGS += -DLB_FAULT_POINTS
endif

# The library's bitcode is of no use: nothing of it is called from expressions.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
include memnode/Makefile.inc

all: memnode/legobase-memnode
install: install-memnode
uninstall: uninstall-memnode
clean: clean-memnode

# With FAULT_POINTS the same sources make other objects; this file changes when the flags do, and only then.
FLAGS_FILE = build/server-flags
$(shell mkdir -p build; echo '$(CC) $(CFLAGS) $(CPPFLAGS)' | cmp -s - $(FLAGS_FILE) || \
	echo '$(CC) $(CFLAGS) $(CPPFLAGS)' > $(FLAGS_FILE))

$(OBJS): $(FLAGS_FILE)

# PGXS makes all objects "secondary": a missing one alone would not make the library out of date.
legobase.so: Makefile src/exports.map

-include $(OBJS:.o=.d)
