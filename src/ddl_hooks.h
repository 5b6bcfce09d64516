/*
 * ddl_hooks.h
 *	  What PostgreSQL does to the files of whole databases without asking the storage manager. t/README.md lists them all.
 */
#ifndef LEGOBASE_DDL_HOOKS_H
#define LEGOBASE_DDL_HOOKS_H

/* Install the hooks. Once, from _PG_init. */
extern void ddl_hooks_install(void);

#endif /* LEGOBASE_DDL_HOOKS_H */
