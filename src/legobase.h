/*
 * legobase.h
 *	  The extension as a whole: was it loaded, is it in use in this process?
 */
#ifndef LEGOBASE_H
#define LEGOBASE_H

#define LEGOBASE_VERSION "1.0"

/* Was the library loaded through shared_preload_libraries? */
extern bool legobase_is_loaded(void);

/* Does this process take part in remote memory? False before shared memory is there, and in single-user mode. */
extern bool legobase_in_use(void);

#endif /* LEGOBASE_H */
